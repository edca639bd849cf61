package lsr.lucene;

import java.io.IOException;
import org.apache.lucene.index.LeafReader;
import org.apache.lucene.index.NumericDocValues;
import org.apache.lucene.index.PostingsEnum;
import org.apache.lucene.index.Terms;
import org.apache.lucene.index.TermsEnum;
import org.apache.lucene.search.DocIdSetIterator;
import org.apache.lucene.util.BytesRef;

/** The postings of a query's words in one segment; scores its documents, in ascending order. */
final class WordPostings {
  private final Weights weights;
  private final Field contents;
  private final Field title;

  WordPostings(LeafReader leaf, Weights weights, WordSimilarity contents, WordSimilarity title)
      throws IOException {
    this.weights = weights;
    this.contents = new Field(leaf, Engine.CONTENTS, weights.words, weights.inContents, contents);
    this.title = new Field(leaf, Engine.TITLE, weights.words, weights.inTitle, title);
  }

  /** Σ over the query's words of weight × score. */
  long score(int doc) throws IOException {
    long sum = 0;
    for (int i = 0; i < weights.words.length; i++) {
      sum += (long) weights.inContents[i] * contents.score(i, doc);
      sum += (long) weights.inTitle[i] * title.score(i, doc);
    }
    return sum;
  }

  /** The scores of word i in title and text and in the title, without weights. */
  int[] parts(int i, int doc) throws IOException {
    return new int[] {contents.score(i, doc), title.score(i, doc)};
  }

  private static final class Field {
    private final PostingsEnum[] postings;
    private final NumericDocValues norms;
    private final WordSimilarity similarity;

    Field(
        LeafReader leaf,
        String name,
        BytesRef[] words,
        int[] weights,
        WordSimilarity similarity)
        throws IOException {
      this.similarity = similarity;
      this.postings = new PostingsEnum[words.length];
      this.norms = leaf.getNormValues(name);
      Terms terms = leaf.terms(name);
      if (terms == null) {
        return;
      }
      TermsEnum found = terms.iterator();
      for (int i = 0; i < words.length; i++) {
        if (weights[i] > 0 && found.seekExact(words[i])) {
          postings[i] = found.postings(null, PostingsEnum.FREQS);
        }
      }
    }

    int score(int word, int doc) throws IOException {
      PostingsEnum of = postings[word];
      if (of == null) {
        return 0;
      }
      int at = of.docID();
      if (at < doc) {
        at = of.advance(doc);
      }
      if (at != doc || at == DocIdSetIterator.NO_MORE_DOCS) {
        return 0;
      }
      norms.advanceExact(doc);
      return similarity.score(of.freq(), norms.longValue());
    }
  }
}
