package lsr.lucene;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashSet;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import org.apache.lucene.analysis.Analyzer;
import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.tokenattributes.TermToBytesRefAttribute;
import org.apache.lucene.index.IndexReader;
import org.apache.lucene.index.MultiTerms;
import org.apache.lucene.index.Term;
import org.apache.lucene.index.Terms;
import org.apache.lucene.index.TermsEnum;
import org.apache.lucene.search.BooleanClause;
import org.apache.lucene.search.BooleanQuery;
import org.apache.lucene.search.FuzzyQuery;
import org.apache.lucene.search.MultiTermQuery;
import org.apache.lucene.search.PrefixQuery;
import org.apache.lucene.search.Query;
import org.apache.lucene.search.TermQuery;
import org.apache.lucene.util.BytesRef;
import org.apache.lucene.util.StringHelper;

/**
 * Words that begin alike, and words that are written alike.
 *
 * <p>The index holds words as the analyzer makes them, mostly stems. So a pattern also stands for its
 * own word as the analyzer makes it (running* for run), and what is written like that.
 */
final class Patterns {
  /** The edits of a pattern that stands for what begins with it. */
  static final int PREFIX = -1;

  /** A word of the index. */
  record Found(BytesRef word, int documents, int edits) {}

  private Patterns() {}

  static Query prefix(Analyzer analyzer, String field, String text) throws IOException {
    BooleanQuery.Builder any = new BooleanQuery.Builder();
    add(any, new PrefixQuery(new Term(field, analyzer.normalize(field, text))));
    for (String word : words(analyzer, field, text)) {
      add(any, new TermQuery(new Term(field, word)));
    }
    return any.build();
  }

  static Query fuzzy(Analyzer analyzer, String field, String text, int edits) throws IOException {
    BooleanQuery.Builder any = new BooleanQuery.Builder();
    for (String form : forms(analyzer, field, text)) {
      // Other ways to rewrite it keep the nearest words only.
      MultiTermQuery.RewriteMethod all = MultiTermQuery.CONSTANT_SCORE_BLENDED_REWRITE;
      add(any, new FuzzyQuery(new Term(field, form), edits, 0, 1, true, all));
    }
    return any.build();
  }

  private static void add(BooleanQuery.Builder any, Query query) {
    any.add(query, BooleanClause.Occur.SHOULD);
  }

  /** The words that a pattern stands for: by edits, those in most documents first, then by name. */
  static List<Found> words(
      IndexReader reader, Analyzer analyzer, String field, String text, int edits)
      throws IOException {
    List<Found> found = new ArrayList<>();
    Terms terms = MultiTerms.getTerms(reader, field);
    if (terms == null) {
      return found;
    }
    Set<BytesRef> seen = new HashSet<>();
    if (edits == PREFIX) {
      TermsEnum at = terms.iterator();
      for (String word : words(analyzer, field, text)) {
        if (at.seekExact(new BytesRef(word))) {
          add(found, seen, at, 0);
        }
      }
      BytesRef prefix = analyzer.normalize(field, text);
      boolean more = at.seekCeil(prefix) != TermsEnum.SeekStatus.END;
      for (; more && StringHelper.startsWith(at.term(), prefix); more = at.next() != null) {
        add(found, seen, at, 0);
      }
    }
    for (int distance = 0; distance <= edits; distance++) {
      for (String form : forms(analyzer, field, text)) {
        TermsEnum like =
            FuzzyQuery.getFuzzyAutomaton(form, distance, 0, true).getTermsEnum(terms);
        while (like.next() != null) {
          add(found, seen, like, distance);
        }
      }
    }
    found.sort(
        Comparator.comparingInt(Found::edits)
            .thenComparing(Found::documents, Comparator.reverseOrder())
            .thenComparing(Found::word));
    return found;
  }

  private static void add(List<Found> found, Set<BytesRef> seen, TermsEnum at, int edits)
      throws IOException {
    BytesRef word = BytesRef.deepCopyOf(at.term());
    if (seen.add(word)) {
      found.add(new Found(word, at.docFreq(), edits));
    }
  }

  /** What a word may be in the index: as it is written, and as the analyzer makes it. */
  private static Set<String> forms(Analyzer analyzer, String field, String text)
      throws IOException {
    Set<String> forms = new LinkedHashSet<>();
    forms.add(analyzer.normalize(field, text).utf8ToString());
    forms.addAll(words(analyzer, field, text));
    return forms;
  }

  /** The words of a text, if it is one: of those of several none stands for it. */
  private static List<String> words(Analyzer analyzer, String field, String text)
      throws IOException {
    List<String> words = new ArrayList<>();
    try (TokenStream stream = analyzer.tokenStream(field, text)) {
      TermToBytesRefAttribute word = stream.getAttribute(TermToBytesRefAttribute.class);
      stream.reset();
      while (stream.incrementToken()) {
        words.add(word.getBytesRef().utf8ToString());
      }
      stream.end();
    }
    return words.size() == 1 ? words : List.of();
  }
}
