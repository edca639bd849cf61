package lsr.lucene;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.lucene.analysis.Analyzer;
import org.apache.lucene.document.DoublePoint;
import org.apache.lucene.document.LongPoint;
import org.apache.lucene.document.SortedSetDocValuesField;
import org.apache.lucene.index.IndexReader;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.index.Term;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.MatchNoDocsQuery;
import org.apache.lucene.search.Query;
import org.apache.lucene.search.ScoreMode;
import org.apache.lucene.search.Scorer;
import org.apache.lucene.search.TermInSetQuery;
import org.apache.lucene.search.TermQuery;
import org.apache.lucene.search.Weight;
import org.apache.lucene.util.Bits;
import org.apache.lucene.util.BytesRef;
import org.apache.lucene.util.FixedBitSet;
import org.apache.lucene.util.QueryBuilder;

/**
 * The documents that pass filters, as one bit set for each segment; those used last are kept.
 *
 * <p>A bit set of a segment says nothing of deletions, so that it serves until the segment is merged
 * away. The one that searches use leaves the deleted documents out, and belongs to one state of them.
 */
final class Filters {
  /** Bytes of bit sets that are kept. */
  private static final long MOST = 64L << 20;
  /** Of more parts than this, the bit sets are not kept each. */
  private static final int WIDE = 16;

  /** The documents of one segment that pass a filter, and their number. */
  record Docs(FixedBitSet bits, int count) {}

  /** A filter: what it is made of, or one query; `key` holds the bytes that it was read from. */
  private record Node(char kind, List<Node> parts, Query query, BytesRef key) {}

  private record Key(IndexReader.CacheKey reader, BytesRef node) {}

  private final Map<Key, Docs> kept = new LinkedHashMap<>(16, 0.75f, true);
  private final Analyzer words;
  private final Analyzer queries;
  private long size;

  /** words: the index's analyzer, for patterns; queries: with synonyms, for what follows each other. */
  Filters(Analyzer words, Analyzer queries) {
    this.words = words;
    this.queries = queries;
  }

  /**
   * Of each segment the documents that pass. plan: a character for what follows: & and | a count and
   * so many filters; ! a filter; t a field, a count of terms and these; l and d a field, the lowest
   * and the highest long or double; L and D a field, a count of these and so many; s a field, and the
   * lowest and the highest string, each after a character: [ where it is included, ( where it is not,
   * * where there is none; p a field of words and a text, whose words follow each other there; x a
   * field of words and the beginning of a word; f a field of words, a word, and by how many edits
   * another may differ. No documents pass | of none, all pass & of none.
   */
  List<Docs> of(IndexReader reader, byte[] plan) throws IOException {
    IndexSearcher searcher = new IndexSearcher(reader);
    searcher.setQueryCache(null);
    BytesRef whole = new BytesRef(plan);
    Node node = null;
    List<Docs> found = new ArrayList<>();
    for (LeafReaderContext leaf : reader.leaves()) {
      Bits live = leaf.reader().getLiveDocs();
      // Without deletions this is the segment's own key, and its own bit set.
      Key key = new Key(leaf.reader().getReaderCacheHelper().getKey(), whole);
      Docs docs = get(key);
      if (docs == null) {
        node = node == null ? read(Packed.little(plan), plan) : node;
        docs = docs(node, searcher, leaf, true);
        if (live != null) {
          FixedBitSet bits = FixedBitSet.copyOf(live);
          bits.and(docs.bits);
          docs = put(key, bits);
        }
      }
      found.add(docs);
    }
    return found;
  }

  static long count(List<Docs> docs) {
    long count = 0;
    for (Docs of : docs) {
      count += of.count;
    }
    return count;
  }

  /** Those of one segment, deleted documents included. */
  private Docs docs(Node node, IndexSearcher searcher, LeafReaderContext leaf, boolean keep)
      throws IOException {
    Key key = new Key(leaf.reader().getCoreCacheHelper().getKey(), node.key);
    Docs docs = get(key);
    if (docs != null) {
      return docs;
    }
    FixedBitSet bits = new FixedBitSet(leaf.reader().maxDoc());
    boolean each = keep && node.parts.size() <= WIDE;
    switch (node.kind) {
      case '&' -> {
        bits.set(0, bits.length());
        for (Node part : node.parts) {
          bits.and(docs(part, searcher, leaf, each).bits);
        }
      }
      case '|' -> {
        for (Node part : node.parts) {
          if (!each && part.query != null) {
            add(part.query, searcher, leaf, bits);
          } else {
            bits.or(docs(part, searcher, leaf, each).bits);
          }
        }
      }
      case '!' -> {
        bits.set(0, bits.length());
        bits.andNot(docs(node.parts.get(0), searcher, leaf, keep).bits);
      }
      default -> add(node.query, searcher, leaf, bits);
    }
    return keep ? put(key, bits) : new Docs(bits, bits.cardinality());
  }

  private static void add(
      Query query, IndexSearcher searcher, LeafReaderContext leaf, FixedBitSet bits)
      throws IOException {
    Weight weight =
        searcher.createWeight(searcher.rewrite(query), ScoreMode.COMPLETE_NO_SCORES, 1);
    Scorer scorer = weight.scorer(leaf);
    if (scorer != null) {
      bits.or(scorer.iterator());
    }
  }

  private synchronized Docs get(Key key) {
    return kept.get(key);
  }

  private Docs put(Key key, FixedBitSet bits) {
    Docs docs = new Docs(bits, bits.cardinality());
    synchronized (this) {
      if (kept.put(key, docs) == null) {
        size += bytes(key, docs);
      }
      for (Iterator<Map.Entry<Key, Docs>> all = kept.entrySet().iterator(); size > MOST; ) {
        Map.Entry<Key, Docs> oldest = all.next();
        size -= bytes(oldest.getKey(), oldest.getValue());
        all.remove();
      }
    }
    return docs;
  }

  private static long bytes(Key key, Docs docs) {
    return key.node.length + docs.bits.ramBytesUsed() + 200;
  }

  private Node read(ByteBuffer in, byte[] plan) throws IOException {
    int start = in.position();
    char kind = (char) in.get();
    List<Node> parts = new ArrayList<>();
    Query query = null;
    if (kind == '&' || kind == '|' || kind == '!') {
      for (int left = kind == '!' ? 1 : in.getInt(); left > 0; left--) {
        parts.add(read(in, plan));
      }
    } else {
      query = query(kind, Packed.string(in), in);
    }
    BytesRef key = new BytesRef(Arrays.copyOfRange(plan, start, in.position()));
    return new Node(kind, parts, query, key);
  }

  private Query query(char kind, String field, ByteBuffer in) throws IOException {
    switch (kind) {
      case 't' -> {
        BytesRef[] terms = new BytesRef[in.getInt()];
        for (int i = 0; i < terms.length; i++) {
          terms[i] = new BytesRef(Packed.bytes(in));
        }
        return terms.length == 1
            ? new TermQuery(new Term(field, terms[0]))
            : new TermInSetQuery(field, Arrays.asList(terms));
      }
      case 'l' -> {
        return LongPoint.newRangeQuery(field, in.getLong(), in.getLong());
      }
      case 'd' -> {
        return DoublePoint.newRangeQuery(field, in.getDouble(), in.getDouble());
      }
      case 'L' -> {
        long[] values = new long[in.getInt()];
        for (int i = 0; i < values.length; i++) {
          values[i] = in.getLong();
        }
        return LongPoint.newSetQuery(field, values);
      }
      case 'D' -> {
        double[] values = new double[in.getInt()];
        for (int i = 0; i < values.length; i++) {
          values[i] = in.getDouble();
        }
        return DoublePoint.newSetQuery(field, values);
      }
      case 's' -> {
        char low = (char) in.get();
        BytesRef lowest = new BytesRef(Packed.bytes(in));
        char high = (char) in.get();
        BytesRef highest = new BytesRef(Packed.bytes(in));
        return SortedSetDocValuesField.newSlowRangeQuery(
            field,
            low == '*' ? null : lowest,
            high == '*' ? null : highest,
            low == '[',
            high == '[');
      }
      case 'p' -> {
        Query phrase = new QueryBuilder(queries).createPhraseQuery(field, Packed.string(in));
        return phrase == null ? new MatchNoDocsQuery("a text without words") : phrase;
      }
      case 'x' -> {
        return Patterns.prefix(words, field, Packed.string(in));
      }
      case 'f' -> {
        return Patterns.fuzzy(words, field, Packed.string(in), in.getInt());
      }
      default -> throw new IllegalArgumentException("no filter begins with " + kind);
    }
  }
}
