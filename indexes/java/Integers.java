package lsr.lucene;

import java.io.IOException;
import java.util.Objects;
import org.apache.lucene.index.FilteredTermsEnum;
import org.apache.lucene.index.Terms;
import org.apache.lucene.index.TermsEnum;
import org.apache.lucene.search.MultiTermQuery;
import org.apache.lucene.search.QueryVisitor;
import org.apache.lucene.util.AttributeSource;
import org.apache.lucene.util.BytesRef;

/**
 * Documents with a field's term between two integers, both included, of the same sign and number of
 * digits. Terms are decimal integers, which sort like numbers if they have the same length.
 */
final class Integers extends MultiTermQuery {
  private final BytesRef first;
  private final BytesRef last;

  Integers(String field, BytesRef first, BytesRef last) {
    super(field, CONSTANT_SCORE_REWRITE);
    this.first = first;
    this.last = last;
  }

  @Override
  protected TermsEnum getTermsEnum(Terms terms, AttributeSource attributes) throws IOException {
    FilteredTermsEnum between =
        new FilteredTermsEnum(terms.iterator()) {
          @Override
          protected AcceptStatus accept(BytesRef term) {
            if (term.compareTo(last) > 0) {
              return AcceptStatus.END;
            }
            return term.length == first.length && isDecimal(term)
                ? AcceptStatus.YES
                : AcceptStatus.NO;
          }

          {
            setInitialSeekTerm(first);
          }
        };
    return between;
  }

  /** Whether all bytes after the first are digits; the bounds have checked the first already. */
  private static boolean isDecimal(BytesRef term) {
    for (int i = term.offset + 1; i < term.offset + term.length; i++) {
      if (term.bytes[i] < '0' || term.bytes[i] > '9') {
        return false;
      }
    }
    return true;
  }

  @Override
  public void visit(QueryVisitor visitor) {
    if (visitor.acceptField(getField())) {
      visitor.visitLeaf(this);
    }
  }

  @Override
  public String toString(String field) {
    return getField() + ":[" + first.utf8ToString() + " TO " + last.utf8ToString() + "]";
  }

  @Override
  public boolean equals(Object other) {
    return super.equals(other)
        && first.equals(((Integers) other).first)
        && last.equals(((Integers) other).last);
  }

  @Override
  public int hashCode() {
    return Objects.hash(super.hashCode(), first, last);
  }
}
