package lsr.lucene;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.TreeSet;
import org.apache.lucene.document.Document;
import org.apache.lucene.document.DoublePoint;
import org.apache.lucene.document.Field;
import org.apache.lucene.document.LongPoint;
import org.apache.lucene.document.SortedNumericDocValuesField;
import org.apache.lucene.document.SortedSetDocValuesField;
import org.apache.lucene.document.StringField;
import org.apache.lucene.index.FieldInfo;
import org.apache.lucene.index.IndexReader;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.util.BytesRef;
import org.apache.lucene.util.NumericUtils;

/**
 * The fields of documents' metadata: TYPE.KEY, each with doc values. Strings and booleans are terms,
 * integers and dates (microseconds since 1970) are longs, floats are doubles.
 */
final class Metadata {
  /** The keys under which a document has values, and the objects that these are in. */
  private static final String KEYS = "keys";

  private static final String[] TYPES = {"string", "integer", "float", "boolean", "date"};

  private Metadata() {}

  /**
   * Adds a document's metadata. in: a count, (field, term)…, a count, (field, long)…, a count,
   * (field, double)…, a count, keys.
   */
  static void add(ByteBuffer in, Document document) {
    for (int left = in.getInt(); left > 0; left--) {
      String field = Packed.string(in);
      BytesRef term = new BytesRef(Packed.bytes(in));
      document.add(new StringField(field, term, Field.Store.NO));
      document.add(new SortedSetDocValuesField(field, term));
    }
    for (int left = in.getInt(); left > 0; left--) {
      String field = Packed.string(in);
      long value = in.getLong();
      document.add(new LongPoint(field, value));
      document.add(new SortedNumericDocValuesField(field, value));
    }
    for (int left = in.getInt(); left > 0; left--) {
      String field = Packed.string(in);
      double value = in.getDouble();
      document.add(new DoublePoint(field, value));
      document.add(
          new SortedNumericDocValuesField(field, NumericUtils.doubleToSortableLong(value)));
    }
    for (int left = in.getInt(); left > 0; left--) {
      document.add(new StringField(KEYS, new BytesRef(Packed.bytes(in)), Field.Store.NO));
    }
  }

  /** The fields, those of deleted, unmerged documents included: a string each. */
  static byte[] fields(IndexReader reader) throws IOException {
    TreeSet<String> names = new TreeSet<>();
    for (LeafReaderContext leaf : reader.leaves()) {
      for (FieldInfo field : leaf.reader().getFieldInfos()) {
        for (String type : TYPES) {
          if (field.name.startsWith(type + ".")) {
            names.add(field.name);
          }
        }
      }
    }
    Packed.Writer out = new Packed.Writer();
    for (String name : names) {
      out.string(name.getBytes(StandardCharsets.UTF_8));
    }
    return out.bytes();
  }
}
