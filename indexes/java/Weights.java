package lsr.lucene;

import java.nio.ByteBuffer;
import org.apache.lucene.util.BytesRef;

/** The terms of a query and their weights; for use by one thread at a time. */
final class Weights {
  final int[] terms;
  final int[] weights;
  private final int vocabulary;
  // Weights by term id; made at first use.
  private int[] byTerm;

  /** in: the number of terms, term ids, weights. */
  Weights(ByteBuffer in, int vocabulary) {
    int count = in.getInt();
    terms = Packed.ints(in, count);
    weights = Packed.ints(in, count);
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
