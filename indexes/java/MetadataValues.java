package lsr.lucene;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.index.DocValues;
import org.apache.lucene.index.LeafReader;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.index.SortedNumericDocValues;
import org.apache.lucene.index.SortedSetDocValues;
import org.apache.lucene.util.BytesRef;
import org.apache.lucene.util.NumericUtils;

/** The values of some documents under one key of metadata, from doc values. */
final class MetadataValues {
  private static final BytesRef TRUE = new BytesRef("true".getBytes(StandardCharsets.UTF_8));
  private final long[][] integers;
  private final long[][] floats;
  private final BytesRef[][] booleans;
  private final BytesRef[][] strings;

  private MetadataValues(int n) {
    integers = new long[n][];
    floats = new long[n][];
    booleans = new BytesRef[n][];
    strings = new BytesRef[n][];
  }

  /**
   * Four parts: integers as longs, floats as doubles, booleans as integers 0 and 1, strings as in
   * Packed.strings. Before each part is the number of values of each document, −1 for one that is
   * not there.
   */
  static byte[] of(DirectoryReader reader, String key, BytesRef[] ids) throws IOException {
    MetadataValues values = new MetadataValues(ids.length);
    boolean[] before = new boolean[ids.length];
    for (LeafReaderContext context : reader.leaves()) {
      LeafReader leaf = context.reader();
      Lookup.Found found = Lookup.found(leaf, ids, before);
      read(leaf, "integer." + key, found, values.integers);
      read(leaf, "float." + key, found, values.floats);
      read(leaf, "boolean." + key, found, values.booleans);
      read(leaf, "string." + key, found, values.strings);
    }
    return values.packed();
  }

  private static void read(LeafReader leaf, String field, Lookup.Found found, long[][] out)
      throws IOException {
    SortedNumericDocValues values = DocValues.getSortedNumeric(leaf, field);
    for (int i = 0; i < found.docs().length; i++) {
      boolean has = values.advanceExact(found.docs()[i]);
      long[] of = new long[has ? values.docValueCount() : 0];
      for (int j = 0; j < of.length; j++) {
        of[j] = values.nextValue();
      }
      out[found.places()[i]] = of;
    }
  }

  private static void read(LeafReader leaf, String field, Lookup.Found found, BytesRef[][] out)
      throws IOException {
    SortedSetDocValues values = DocValues.getSortedSet(leaf, field);
    for (int i = 0; i < found.docs().length; i++) {
      boolean has = values.advanceExact(found.docs()[i]);
      BytesRef[] of = new BytesRef[has ? values.docValueCount() : 0];
      for (int j = 0; j < of.length; j++) {
        of[j] = BytesRef.deepCopyOf(values.lookupOrd(values.nextOrd()));
      }
      out[found.places()[i]] = of;
    }
  }

  private byte[] packed() throws IOException {
    Packed.Writer out = new Packed.Writer();
    for (long[] of : integers) {
      out.integer(of == null ? -1 : of.length);
    }
    for (long[] of : integers) {
      for (int i = 0; of != null && i < of.length; i++) {
        out.number(of[i]);
      }
    }
    for (long[] of : floats) {
      out.integer(of == null ? -1 : of.length);
    }
    for (long[] of : floats) {
      for (int i = 0; of != null && i < of.length; i++) {
        double value = NumericUtils.sortableLongToDouble(of[i]);
        out.number(Double.doubleToRawLongBits(value));
      }
    }
    for (BytesRef of : terms(booleans, out)) {
      out.integer(of.equals(TRUE) ? 1 : 0);
    }
    out.strings(terms(strings, out));
    return out.bytes();
  }

  /** Writes how many terms each document has, and returns all of them. */
  private static List<BytesRef> terms(BytesRef[][] documents, Packed.Writer out)
      throws IOException {
    List<BytesRef> all = new ArrayList<>();
    for (BytesRef[] of : documents) {
      out.integer(of == null ? -1 : of.length);
      if (of != null) {
        all.addAll(List.of(of));
      }
    }
    return all;
  }
}
