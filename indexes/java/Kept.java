package lsr.lucene;

import java.io.IOException;
import java.util.Arrays;
import org.apache.lucene.index.BinaryDocValues;
import org.apache.lucene.index.IndexReader;
import org.apache.lucene.index.LeafReader;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.index.NumericDocValues;
import org.apache.lucene.index.PostingsEnum;
import org.apache.lucene.index.Term;
import org.apache.lucene.util.Bits;
import org.apache.lucene.util.BytesRef;

/** What a document keeps when its metadata change: learned terms with impacts, passage number. */
record Kept(int[] terms, int[] impacts, long passage) {

  /** That of the document with an id. */
  static Kept of(IndexReader reader, String id) throws IOException {
    for (LeafReaderContext context : reader.leaves()) {
      LeafReader leaf = context.reader();
      Bits live = leaf.getLiveDocs();
      PostingsEnum found = leaf.postings(new Term(Engine.ID, id), PostingsEnum.NONE);
      if (found == null) {
        continue;
      }
      for (int doc = found.nextDoc(); doc != PostingsEnum.NO_MORE_DOCS; doc = found.nextDoc()) {
        if (live == null || live.get(doc)) {
          return of(leaf, doc);
        }
      }
    }
    throw new IllegalArgumentException("no document " + id);
  }

  private static Kept of(LeafReader leaf, int doc) throws IOException {
    NumericDocValues passages = leaf.getNumericDocValues(Engine.PASSAGE);
    passages.advanceExact(doc);
    BinaryDocValues vectors = leaf.getBinaryDocValues(Engine.FORWARD);
    vectors.advanceExact(doc);
    BytesRef forward = vectors.binaryValue();
    // A term takes two bytes or more.
    int[] terms = new int[forward.length / 2];
    int[] impacts = new int[forward.length / 2];
    int n = 0;
    for (Packed.Terms each = new Packed.Terms(forward); each.next(); n++) {
      terms[n] = each.term;
      impacts[n] = each.impact;
    }
    return new Kept(Arrays.copyOf(terms, n), Arrays.copyOf(impacts, n), passages.longValue());
  }
}
