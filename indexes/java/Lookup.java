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
import org.apache.lucene.index.FilterLeafReader;
import org.apache.lucene.index.LeafReader;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.index.PostingsEnum;
import org.apache.lucene.index.SegmentReader;
import org.apache.lucene.index.Terms;
import org.apache.lucene.index.TermsEnum;
import org.apache.lucene.util.BitSetIterator;
import org.apache.lucene.util.Bits;
import org.apache.lucene.util.BytesRef;
import org.apache.lucene.util.StringHelper;

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

  /** How many documents these are, and their ids as in Packed.strings. */
  static byte[] ids(DirectoryReader reader, List<Filters.Docs> docs) throws IOException {
    List<BytesRef> found = new ArrayList<>();
    for (LeafReaderContext leaf : reader.leaves()) {
      BinaryDocValues ids = DocValues.getBinary(leaf.reader(), Engine.ID);
      BitSetIterator among = new BitSetIterator(docs.get(leaf.ord).bits(), 0);
      for (int doc = among.nextDoc(); doc != BitSetIterator.NO_MORE_DOCS; doc = among.nextDoc()) {
        if (!ids.advanceExact(doc)) {
          throw new IOException("document " + doc + " has no id");
        }
        found.add(BytesRef.deepCopyOf(ids.binaryValue()));
      }
    }
    Packed.Writer out = new Packed.Writer();
    out.integer(found.size());
    out.strings(found);
    return out.bytes();
  }

  static String name(LeafReaderContext leaf) {
    SegmentReader segment = (SegmentReader) FilterLeafReader.unwrap(leaf.reader());
    return StringHelper.idToString(segment.getSegmentInfo().info.getId());
  }

  static byte[] idsOf(DirectoryReader reader, String segment) throws IOException {
    List<BytesRef> found = new ArrayList<>();
    for (LeafReaderContext leaf : reader.leaves()) {
      if (name(leaf).equals(segment)) {
        BinaryDocValues ids = DocValues.getBinary(leaf.reader(), Engine.ID);
        while (ids.nextDoc() != BinaryDocValues.NO_MORE_DOCS) {
          found.add(BytesRef.deepCopyOf(ids.binaryValue()));
        }
      }
    }
    Packed.Writer out = new Packed.Writer();
    out.strings(found);
    return out.bytes();
  }

  static byte[] frequencies(DirectoryReader reader, String field, BytesRef[] of)
      throws IOException {
    int[] counts = new int[of.length];
    for (LeafReaderContext leaf : reader.leaves()) {
      Terms found = leaf.reader().terms(field);
      if (found == null) {
        continue;
      }
      TermsEnum terms = found.iterator();
      for (int i = 0; i < counts.length; i++) {
        if (terms.seekExact(of[i])) {
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

  /** Documents of a segment in the order in which they lie, and their places in `ids`. */
  record Found(int[] docs, int[] places) {}

  /** Those of `ids` that are in a segment, where they were not in one before. */
  static Found found(LeafReader leaf, BytesRef[] ids, boolean[] before)
      throws IOException {
    Ids known = new Ids(leaf);
    long[] found = new long[ids.length];
    int count = 0;
    for (int i = 0; i < ids.length; i++) {
      int doc = before[i] ? -1 : known.find(ids[i]);
      if (doc >= 0) {
        before[i] = true;
        found[count++] = (long) doc << 32 | i;
      }
    }
    Arrays.sort(found, 0, count);
    int[] docs = new int[count];
    int[] places = new int[count];
    for (int i = 0; i < count; i++) {
      docs[i] = (int) (found[i] >> 32);
      places[i] = (int) found[i];
    }
    return new Found(docs, places);
  }

  static long[] scores(
      DirectoryReader reader,
      Weights weights,
      WordSimilarity contents,
      WordSimilarity title,
      BytesRef[] ids)
      throws IOException {
    long[] scores = new long[ids.length];
    Arrays.fill(scores, -1);
    boolean[] before = new boolean[ids.length];
    for (LeafReaderContext context : reader.leaves()) {
      Found found = found(context.reader(), ids, before);
      BinaryDocValues forward = context.reader().getBinaryDocValues(Engine.FORWARD);
      WordPostings words = new WordPostings(context.reader(), weights, contents, title);
      for (int i = 0; i < found.docs.length; i++) {
        forward.advanceExact(found.docs[i]);
        long score = weights.terms.length == 0 ? 0 : weights.product(forward.binaryValue());
        scores[found.places[i]] = score + words.score(found.docs[i]);
      }
    }
    return scores;
  }

  /** For each document, for each word of a query: its scores in title and text, and the title. */
  static int[] words(
      DirectoryReader reader,
      Weights weights,
      WordSimilarity contents,
      WordSimilarity title,
      BytesRef[] ids)
      throws IOException {
    int n = weights.words.length;
    int[] parts = new int[2 * n * ids.length];
    boolean[] before = new boolean[ids.length];
    for (LeafReaderContext context : reader.leaves()) {
      Found found = found(context.reader(), ids, before);
      WordPostings words = new WordPostings(context.reader(), weights, contents, title);
      for (int i = 0; i < found.docs.length; i++) {
        for (int word = 0; word < n; word++) {
          int[] of = words.parts(word, found.docs[i]);
          System.arraycopy(of, 0, parts, 2 * (found.places[i] * n + word), 2);
        }
      }
    }
    return parts;
  }
}
