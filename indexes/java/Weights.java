package lsr.lucene;

import java.nio.ByteBuffer;
import org.apache.lucene.util.BytesRef;

/** A query: learned terms and words with their weights. Used by one thread at a time. */
final class Weights {
  final int[] terms;
  final int[] weights;
  final BytesRef[] words;
  /** Of words in title and text, and of words in the title; 0: not searched for there. */
  final int[] inContents;

  final int[] inTitle;
  private final int vocabulary;
  // Weights by term id; made at first use.
  private int[] byTerm;

  /**
   * numbers: a count, term ids, weights; strings: a count, then for each word its bytes and its
   * weights in title and text and in the title.
   */
  Weights(ByteBuffer numbers, ByteBuffer strings, int vocabulary) {
    int count = numbers.getInt();
    terms = Packed.ints(numbers, count);
    weights = Packed.ints(numbers, count);
    words = new BytesRef[strings.getInt()];
    inContents = new int[words.length];
    inTitle = new int[words.length];
    for (int i = 0; i < words.length; i++) {
      words[i] = new BytesRef(Packed.bytes(strings));
      inContents[i] = strings.getInt();
      inTitle[i] = strings.getInt();
    }
    this.vocabulary = vocabulary;
  }

  /** The sum of impact × weight over the terms of a forward vector. */
  long product(BytesRef forward) {
    if (byTerm == null) {
      byTerm = new int[vocabulary];
      for (int i = 0; i < terms.length; i++) {
        byTerm[terms[i]] = weights[i];
      }
    }
    long sum = 0;
    for (Packed.Terms found = new Packed.Terms(forward); found.next(); ) {
      sum += (long) byTerm[found.term] * found.impact;
    }
    return sum;
  }
}
