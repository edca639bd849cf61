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
import org.apache.lucene.util.BytesRef;

/** The k best hits: score descending, ties by document id ascending (UTF-8 bytes). */
final class TopHits implements Collector {
  record Hit(float score, BytesRef id) {}

  /** Worst first, so that the heap's head is what the next hit must beat. */
  static final Comparator<Hit> WORST_FIRST =
      Comparator.<Hit>comparingDouble(Hit::score).thenComparing(Hit::id, Comparator.reverseOrder());

  private final int k;
  private final float floor;
  final PriorityQueue<Hit> heap;

  TopHits(int k, float floor) {
    this.k = k;
    this.floor = floor;
    this.heap = new PriorityQueue<>(Math.min(k, 1024), WORST_FIRST);
  }

  @Override
  public ScoreMode scoreMode() {
    return ScoreMode.TOP_SCORES;
  }

  @Override
  public LeafCollector getLeafCollector(LeafReaderContext context) throws IOException {
    BinaryDocValues ids = DocValues.getBinary(context.reader(), Engine.ID);
    return new LeafCollector() {
      private Scorable scorer;

      @Override
      public void setScorer(Scorable scorer) throws IOException {
        this.scorer = scorer;
        limit();
      }

      @Override
      public void collect(int doc) throws IOException {
        float score = scorer.score();
        boolean full = heap.size() == k;
        if (score < floor || full && score < heap.peek().score()) {
          return;
        }
        if (!ids.advanceExact(doc)) {
          throw new IOException("document " + doc + " has no id");
        }
        Hit hit = new Hit(score, BytesRef.deepCopyOf(ids.binaryValue()));
        if (full) {
          if (WORST_FIRST.compare(hit, heap.peek()) < 0) {
            return;
          }
          heap.poll();
        }
        heap.add(hit);
        limit();
      }

      /** From the start nothing below the floor. Equal scores stay competitive: their ids decide. */
      private void limit() throws IOException {
        boolean full = heap.size() == k;
        scorer.setMinCompetitiveScore(full ? Math.max(floor, heap.peek().score()) : floor);
      }
    };
  }
}
