package lsr.lucene;

import org.apache.lucene.util.SmallFloat;

/**
 * A word's part of BM25 in whole numbers: SCALE · tf / (tf + k1 · (1 − b + b · length / average
 * length)), rounded, halves up. The length is the one that Lucene keeps in a byte, the average that
 * of the index as it is: Lucene's BM25Similarity without its idf, which is in the query's weight.
 */
final class WordSimilarity {
  static final int SCALE = 1024;
  /** By the byte in which Lucene keeps a length. */
  private final double[] norms = new double[256];

  WordSimilarity(double k1, double b, double averageLength) {
    for (int i = 0; i < norms.length; i++) {
      double length = SmallFloat.byte4ToInt((byte) i);
      norms[i] = k1 * (1 - b + b * length / averageLength);
    }
  }

  int score(float frequency, long norm) {
    return (int) (SCALE * frequency / (frequency + norms[(int) (norm & 0xFF)]) + 0.5);
  }
}
