package lsr.lucene;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.lucene.document.Document;
import org.apache.lucene.index.BinaryDocValues;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.index.DocValues;
import org.apache.lucene.index.LeafReader;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.index.PostingsEnum;
import org.apache.lucene.index.Terms;
import org.apache.lucene.index.TermsEnum;
import org.apache.lucene.search.BooleanClause;
import org.apache.lucene.search.BooleanQuery;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.MatchAllDocsQuery;
import org.apache.lucene.search.Query;
import org.apache.lucene.search.ScoreMode;
import org.apache.lucene.search.SimpleCollector;
import org.apache.lucene.util.Bits;
import org.apache.lucene.util.BytesRef;

/** Finds documents by id or by filter, not by terms, and reads what is stored about them. */
final class Lookup {
  private Lookup() {}

  /** Finds documents of one leaf by id. */
  private static final class Ids {
    private final TermsEnum terms;
    private final Bits live;
    private PostingsEnum postings;

    Ids(LeafReader leaf) throws IOException {
      Terms ids = leaf.terms(Engine.ID);
      terms = ids == null ? null : ids.iterator();
      live = leaf.getLiveDocs();
    }

    int find(BytesRef id) throws IOException {
      if (terms == null || !terms.seekExact(id)) {
        return -1;
      }
      postings = terms.postings(postings, PostingsEnum.NONE);
      for (int doc = postings.nextDoc(); doc != PostingsEnum.NO_MORE_DOCS; ) {
        if (live == null || live.get(doc)) {
          return doc;
        }
        doc = postings.nextDoc();
      }
      return -1;
    }
  }

  static byte[] fetch(DirectoryReader reader, byte[] packed) throws IOException {
    ByteBuffer in = Packed.little(packed);
    Packed.Writer out = new Packed.Writer();
    List<Ids> leaves = leaves(reader);
    while (in.hasRemaining()) {
      BytesRef id = new BytesRef(Packed.bytes(in));
      boolean found = false;
      for (int i = 0; i < leaves.size() && !found; i++) {
        int doc = leaves.get(i).find(id);
        if (doc >= 0) {
          found = true;
          describe(reader.leaves().get(i).reader(), doc, out);
        }
      }
      if (!found) {
        out.integer(0);
      }
    }
    return out.bytes();
  }

  static byte[] vectors(DirectoryReader reader, byte[] packed) throws IOException {
    ByteBuffer in = Packed.little(packed);
    Packed.Writer counts = new Packed.Writer();
    Packed.Writer ids = new Packed.Writer();
    Packed.Writer impacts = new Packed.Writer();
    List<Ids> leaves = leaves(reader);
    while (in.hasRemaining()) {
      BytesRef id = new BytesRef(Packed.bytes(in));
      int count = -1;
      for (int i = 0; i < leaves.size() && count < 0; i++) {
        int doc = leaves.get(i).find(id);
        if (doc >= 0) {
          count = 0;
          BinaryDocValues forward =
              reader.leaves().get(i).reader().getBinaryDocValues(Engine.FORWARD);
          forward.advanceExact(doc);
          for (Packed.Terms terms = new Packed.Terms(forward.binaryValue()); terms.next(); count++) {
            ids.integer(terms.term);
            impacts.integer(terms.impact);
          }
        }
      }
      counts.integer(count);
    }
    counts.append(ids);
    counts.append(impacts);
    return counts.bytes();
  }

  private static List<Ids> leaves(DirectoryReader reader) throws IOException {
    List<Ids> leaves = new ArrayList<>();
    for (LeafReaderContext leaf : reader.leaves()) {
      leaves.add(new Ids(leaf.reader()));
    }
    return leaves;
  }

  private static void describe(LeafReader leaf, int doc, Packed.Writer out) throws IOException {
    out.integer(1);
    Document stored = leaf.storedFields().document(doc);
    for (String name : Engine.STORED) {
      out.string(stored.get(name).getBytes(StandardCharsets.UTF_8));
    }
  }

  static byte[] matching(IndexSearcher searcher, List<Query> required) throws IOException {
    BooleanQuery.Builder all = new BooleanQuery.Builder();
    all.add(new MatchAllDocsQuery(), BooleanClause.Occur.FILTER);
    for (Query filter : required) {
      all.add(filter, BooleanClause.Occur.FILTER);
    }
    Packed.Writer out = new Packed.Writer();
    searcher.search(
        all.build(),
        new SimpleCollector() {
          private BinaryDocValues ids;

          @Override
          protected void doSetNextReader(LeafReaderContext context) throws IOException {
            ids = DocValues.getBinary(context.reader(), Engine.ID);
          }

          @Override
          public void collect(int doc) throws IOException {
            if (!ids.advanceExact(doc)) {
              throw new IOException("document " + doc + " has no id");
            }
            out.string(ids.binaryValue());
          }

          @Override
          public ScoreMode scoreMode() {
            return ScoreMode.COMPLETE_NO_SCORES;
          }
        });
    return out.bytes();
  }

  static byte[] frequencies(DirectoryReader reader, BytesRef[] vocabulary) throws IOException {
    int[] counts = new int[vocabulary.length];
    for (LeafReaderContext leaf : reader.leaves()) {
      Terms contents = leaf.reader().terms(Engine.CONTENTS);
      if (contents == null) {
        continue;
      }
      TermsEnum terms = contents.iterator();
      for (int i = 0; i < counts.length; i++) {
        if (terms.seekExact(vocabulary[i])) {
          counts[i] += terms.docFreq();
        }
      }
    }
    Packed.Writer out = new Packed.Writer();
    for (int count : counts) {
      out.integer(count);
    }
    return out.bytes();
  }

  static long[] scores(DirectoryReader reader, Weights weights, BytesRef[] ids)
      throws IOException {
    long[] scores = new long[ids.length];
    Arrays.fill(scores, -1);
    for (LeafReaderContext context : reader.leaves()) {
      Ids known = new Ids(context.reader());
      // Forward vectors are read in their order on disk, sorted by (document, place in `ids`).
      long[] found = new long[ids.length];
      int count = 0;
      for (int i = 0; i < ids.length; i++) {
        int doc = scores[i] < 0 ? known.find(ids[i]) : -1;
        if (doc >= 0) {
          found[count++] = (long) doc << 32 | i;
        }
      }
      Arrays.sort(found, 0, count);
      BinaryDocValues forward = context.reader().getBinaryDocValues(Engine.FORWARD);
      for (int i = 0; i < count; i++) {
        forward.advanceExact((int) (found[i] >> 32));
        scores[(int) found[i]] = weights.product(forward.binaryValue());
      }
    }
    return scores;
  }
}
