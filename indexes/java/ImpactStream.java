package lsr.lucene;

import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.tokenattributes.BytesTermAttribute;
import org.apache.lucene.analysis.tokenattributes.TermFrequencyAttribute;
import org.apache.lucene.util.BytesRef;

/** One document's terms as tokens; their term frequency is the impact, where there are impacts. */
final class ImpactStream extends TokenStream {
  private final BytesTermAttribute term = addAttribute(BytesTermAttribute.class);
  private final TermFrequencyAttribute frequency = addAttribute(TermFrequencyAttribute.class);
  private final BytesRef[] vocabulary;
  private final int[] terms;
  private final int[] impacts;
  private final int end;
  private int next;

  ImpactStream(BytesRef[] vocabulary, int[] terms, int[] impacts, int start, int end) {
    this.vocabulary = vocabulary;
    this.terms = terms;
    this.impacts = impacts;
    this.next = start;
    this.end = end;
  }

  @Override
  public boolean incrementToken() {
    if (next == end) {
      return false;
    }
    clearAttributes();
    term.setBytesRef(vocabulary[terms[next]]);
    if (impacts != null) {
      frequency.setTermFrequency(impacts[next]);
    }
    next++;
    return true;
  }
}
