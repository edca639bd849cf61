package lsr.lucene;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.PriorityQueue;
import org.apache.lucene.index.DocValues;
import org.apache.lucene.index.IndexReader;
import org.apache.lucene.index.LeafReader;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.index.PostingsEnum;
import org.apache.lucene.index.SortedNumericDocValues;
import org.apache.lucene.index.SortedSetDocValues;
import org.apache.lucene.index.Term;
import org.apache.lucene.index.TermsEnum;
import org.apache.lucene.util.ArrayUtil;
import org.apache.lucene.util.BitSetIterator;
import org.apache.lucene.util.BytesRef;
import org.apache.lucene.util.BytesRefHash;
import org.apache.lucene.util.FixedBitSet;
import org.apache.lucene.util.NumericUtils;

/**
 * Counts the documents that pass a filter by their values under a key of metadata, which are read
 * from doc values in one pass over the documents; a document counts once for each different value.
 */
final class Facets {
  /** Code points; a longer term stands for a string that is longer than itself. */
  private final int longest;
  private final IndexReader reader;
  private final List<Filters.Docs> among;

  Facets(IndexReader reader, List<Filters.Docs> among, int longest) {
    this.reader = reader;
    this.among = among;
    this.longest = longest;
  }

  /**
   * in: a key, how many values are wanted, a count, and so many ranges as plans of Filters. Writes
   * for each range how many documents it holds, a long, then how many have the key, a long. Where
   * values are wanted, the most frequent follow, ties ascending, in four groups: booleans, strings,
   * integers (and floats that equal one), other floats. Of a group: how many different values there
   * are, how many follow, and these, each after its number of documents. After a string follow the
   * metadata of a document that has it, where its term is longer than `longest`, else nothing.
   */
  void count(ByteBuffer in, Filters filters, Packed.Writer out) throws IOException {
    String key = Packed.string(in);
    int limit = in.getInt();
    for (int left = in.getInt(); left > 0; left--) {
      List<Filters.Docs> range = filters.of(reader, Packed.bytes(in));
      long common = 0;
      for (int i = 0; i < range.size(); i++) {
        common += FixedBitSet.intersectionCount(among.get(i).bits(), range.get(i).bits());
      }
      out.number(common);
    }
    Values values = new Values(key, limit > 0);
    for (LeafReaderContext leaf : reader.leaves()) {
      values.add(leaf.reader(), among.get(leaf.ord).bits());
    }
    out.number(values.documents);
    if (limit > 0) {
      write(values.booleans.top(limit), out, value -> out.string(value));
      write(values.strings.top(limit), out, value -> string("string." + key, value, out));
      write(top(values.integers, limit, value -> value), out, out::number);
      write(
          top(values.floats, limit, NumericUtils::sortableLongToDouble),
          out,
          value -> out.number(Double.doubleToRawLongBits(value)));
    }
  }

  private void string(String field, BytesRef term, Packed.Writer out) throws IOException {
    out.string(term);
    if (Packed.codePoints(term) <= longest) {
      return;
    }
    for (LeafReaderContext leaf : reader.leaves()) {
      PostingsEnum holders = leaf.reader().postings(new Term(field, term), PostingsEnum.NONE);
      if (holders != null) {
        int doc = holders.nextDoc();
        out.string(new BytesRef(leaf.reader().storedFields().document(doc).get("metadata")));
        return;
      }
    }
    throw new IOException("no document holds a term of " + field);
  }

  /** The counts of one key. */
  private static final class Values {
    final String key;
    final boolean each;
    final Terms booleans = new Terms();
    final Terms strings = new Terms();
    final Map<Long, int[]> integers = new HashMap<>();

    /** By what NumericUtils makes of them: their order. */
    final Map<Long, int[]> floats = new HashMap<>();

    long documents;

    /** each: whether values are counted, and not only the documents that have some. */
    Values(String key, boolean each) {
      this.key = key;
      this.each = each;
    }

    void add(LeafReader leaf, FixedBitSet among) throws IOException {
      SortedSetDocValues ofBooleans = DocValues.getSortedSet(leaf, "boolean." + key);
      SortedSetDocValues ofStrings = DocValues.getSortedSet(leaf, "string." + key);
      SortedNumericDocValues ofIntegers = DocValues.getSortedNumeric(leaf, "integer." + key);
      SortedNumericDocValues ofFloats = DocValues.getSortedNumeric(leaf, "float." + key);
      int[] booleanCounts = new int[(int) ofBooleans.getValueCount()];
      int[] stringCounts = new int[each ? (int) ofStrings.getValueCount() : 0];
      long[] own = new long[1];
      BitSetIterator docs = new BitSetIterator(among, 0);
      for (int doc = docs.nextDoc(); doc != BitSetIterator.NO_MORE_DOCS; doc = docs.nextDoc()) {
        boolean isBoolean = ofBooleans.advanceExact(doc);
        boolean isString = ofStrings.advanceExact(doc);
        boolean isInteger = ofIntegers.advanceExact(doc);
        boolean isFloat = ofFloats.advanceExact(doc);
        documents += isBoolean || isString || isInteger || isFloat ? 1 : 0;
        if (!each) {
          continue;
        }
        if (isBoolean) {
          count(ofBooleans, booleanCounts);
        }
        if (isString) {
          count(ofStrings, stringCounts);
        }
        int n = isInteger ? ofIntegers.docValueCount() : 0;
        own = ArrayUtil.grow(own, n);
        for (int i = 0; i < n; i++) {
          own[i] = ofIntegers.nextValue(); // ascending
          count(integers, own[i]);
        }
        for (int left = isFloat ? ofFloats.docValueCount() : 0; left > 0; left--) {
          long sortable = ofFloats.nextValue();
          double value = NumericUtils.sortableLongToDouble(sortable);
          if (value != (long) value || value == 0x1p63) {
            count(floats, sortable);
          } else if (Arrays.binarySearch(own, 0, n, (long) value) < 0) {
            count(integers, (long) value); // 5.0 is 5, and counts once beside it
          }
        }
      }
      booleans.add(ofBooleans, booleanCounts);
      strings.add(ofStrings, stringCounts);
    }

    private static void count(SortedSetDocValues values, int[] counts) throws IOException {
      for (int left = values.docValueCount(); left > 0; left--) {
        counts[(int) values.nextOrd()]++;
      }
    }

    private static void count(Map<Long, int[]> counts, long value) {
      counts.computeIfAbsent(value, unused -> new int[1])[0]++;
    }
  }

  /** Counts of terms over segments. */
  private static final class Terms {
    private final BytesRefHash terms = new BytesRefHash();
    private int[] counts = new int[0];

    /** of: by the ordinal of a term in one segment. */
    void add(SortedSetDocValues segment, int[] of) throws IOException {
      TermsEnum each = segment.termsEnum();
      int at = -1;
      for (int ord = 0; ord < of.length; ord++) {
        if (of[ord] == 0) {
          continue;
        }
        if (ord == at + 1) {
          each.next();
        } else {
          each.seekExact(ord);
        }
        at = ord;
        int id = terms.add(each.term());
        id = id < 0 ? -id - 1 : id;
        counts = ArrayUtil.grow(counts, id + 1);
        counts[id] += of[ord];
      }
    }

    Top<BytesRef> top(int limit) {
      Top<BytesRef> top = new Top<>(limit);
      BytesRef term = new BytesRef();
      for (int id = 0; id < terms.size(); id++) {
        if (top.takes(terms.get(id, term), counts[id])) {
          top.add(BytesRef.deepCopyOf(term), counts[id]);
        }
      }
      return top;
    }
  }

  private interface Number<T> {
    T of(long stored);
  }

  private static <T extends Comparable<T>> Top<T> top(
      Map<Long, int[]> counts, int limit, Number<T> number) {
    Top<T> top = new Top<>(limit);
    for (Map.Entry<Long, int[]> entry : counts.entrySet()) {
      T value = number.of(entry.getKey());
      if (top.takes(value, entry.getValue()[0])) {
        top.add(value, entry.getValue()[0]);
      }
    }
    return top;
  }

  private record Counted<T extends Comparable<T>>(T value, int count) {}

  /** The most frequent values, ties ascending. */
  private static final class Top<T extends Comparable<T>> {
    private final int limit;
    private final PriorityQueue<Counted<T>> worstFirst =
        new PriorityQueue<>(
            Comparator.<Counted<T>>comparingInt(Counted::count)
                .thenComparing(Counted::value, Comparator.reverseOrder()));

    /** How many were offered. */
    int different;

    Top(int limit) {
      this.limit = limit;
    }

    /** Whether a value is among the first so far. */
    boolean takes(T value, int count) {
      different++;
      if (worstFirst.size() < limit) {
        return true;
      }
      Counted<T> worst = worstFirst.peek();
      return count > worst.count
          || count == worst.count && value.compareTo(worst.value) < 0;
    }

    void add(T value, int count) {
      if (worstFirst.size() == limit) {
        worstFirst.poll();
      }
      worstFirst.add(new Counted<>(value, count));
    }
  }

  private interface Write<T> {
    void value(T value) throws IOException;
  }

  private static <T extends Comparable<T>> void write(
      Top<T> top, Packed.Writer out, Write<T> write) throws IOException {
    List<Counted<T>> best = new ArrayList<>(top.worstFirst);
    best.sort(Collections.reverseOrder(top.worstFirst.comparator()));
    out.integer(top.different);
    out.integer(best.size());
    for (Counted<T> counted : best) {
      out.integer(counted.count);
      write.value(counted.value);
    }
  }
}
