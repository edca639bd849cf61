package lsr.lucene;

import java.io.IOException;
import java.util.Comparator;
import java.util.PriorityQueue;
import org.apache.lucene.index.BinaryDocValues;
import org.apache.lucene.index.DocValues;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.search.Collector;
import org.apache.lucene.search.LeafCollector;
import org.apache.lucene.search.Scorable;
import org.apache.lucene.search.ScoreMode;
import org.apache.lucene.util.BitSetIterator;
import org.apache.lucene.util.BytesRef;
import org.apache.lucene.util.FixedBitSet;

/**
 * The k best hits: score descending, ties by document id ascending (UTF-8 bytes).
 *
 * <p>Lucene gives a score as a float, which holds every whole number up to EXACT. A higher score is
 * added up anew from the document's forward vector and its words; Lucene's is then near it, by less
 * than SLACK.
 */
final class TopHits implements Collector {
  record Hit(long score, BytesRef id) {}

  private static final float EXACT = 1 << 24;
  // Relative. The products, their sum and its float are each rounded, by at most 2^-24.
  private static final double SLACK = 0x1p-20;

  /** Worst first, so that the heap's head is the hit that the next one must beat. */
  static final Comparator<Hit> WORST_FIRST =
      Comparator.<Hit>comparingLong(Hit::score).thenComparing(Hit::id, Comparator.reverseOrder());

  private final int k;
  private final long floor;
  private final Weights weights;
  private final WordSimilarity contents;
  private final WordSimilarity title;
  final PriorityQueue<Hit> heap;

  TopHits(int k, long floor, Weights weights, WordSimilarity contents, WordSimilarity title) {
    this.k = k;
    this.floor = floor;
    this.weights = weights;
    this.contents = contents;
    this.title = title;
    this.heap = new PriorityQueue<>(Math.min(k, 1024), WORST_FIRST);
  }

  @Override
  public ScoreMode scoreMode() {
    return ScoreMode.TOP_SCORES;
  }

  /** Scores some documents of a segment one by one, and takes those that are hits. */
  void score(LeafReaderContext context, FixedBitSet docs) throws IOException {
    BinaryDocValues ids = DocValues.getBinary(context.reader(), Engine.ID);
    BinaryDocValues forward = DocValues.getBinary(context.reader(), Engine.FORWARD);
    WordPostings words = new WordPostings(context.reader(), weights, contents, title);
    BitSetIterator among = new BitSetIterator(docs, 0);
    for (int doc = among.nextDoc(); doc != BitSetIterator.NO_MORE_DOCS; doc = among.nextDoc()) {
      long score = words.score(doc);
      if (weights.terms.length > 0 && forward.advanceExact(doc)) {
        score += weights.product(forward.binaryValue());
      }
      offer(ids, doc, score);
    }
  }

  /** Whether a document of this score has become a hit. */
  private boolean offer(BinaryDocValues ids, int doc, long score) throws IOException {
    boolean full = heap.size() == k;
    if (score < floor || full && score < heap.peek().score()) {
      return false;
    }
    if (!ids.advanceExact(doc)) {
      throw new IOException("document " + doc + " has no id");
    }
    Hit hit = new Hit(score, BytesRef.deepCopyOf(ids.binaryValue()));
    if (full) {
      if (WORST_FIRST.compare(hit, heap.peek()) < 0) {
        return false;
      }
      heap.poll();
    }
    heap.add(hit);
    return true;
  }

  @Override
  public LeafCollector getLeafCollector(LeafReaderContext context) throws IOException {
    BinaryDocValues ids = DocValues.getBinary(context.reader(), Engine.ID);
    BinaryDocValues forward = DocValues.getBinary(context.reader(), Engine.FORWARD);
    return new LeafCollector() {
      private Scorable scorer;
      // Made when it is first needed.
      private WordPostings words;

      @Override
      public void setScorer(Scorable scorer) throws IOException {
        this.scorer = scorer;
        limit();
      }

      @Override
      public void collect(int doc) throws IOException {
        float near = scorer.score();
        boolean full = heap.size() == k;
        if (near < least(full)) {
          return;
        }
        long score = (long) near;
        if (near >= EXACT) {
          if (!forward.advanceExact(doc)) {
            throw new IOException("document " + doc + " has no forward vector");
          }
          if (words == null) {
            words = new WordPostings(context.reader(), weights, contents, title);
          }
          score = weights.product(forward.binaryValue()) + words.score(doc);
        }
        if (offer(ids, doc, score)) {
          limit();
        }
      }

      /** Tells Lucene the least score needed. Equal scores stay competitive: their ids decide. */
      private void limit() throws IOException {
        scorer.setMinCompetitiveScore(least(heap.size() == k));
      }

      /** The least score that Lucene can give to a document that is a hit now. */
      private float least(boolean full) {
        long score = full ? Math.max(floor, heap.peek().score()) : floor;
        return score < EXACT ? score : Math.max(EXACT, (float) (score * (1 - SLACK)));
      }
    };
  }
}
