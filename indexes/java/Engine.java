package lsr.lucene;

import io.anserini.search.similarity.ImpactSimilarity;
import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.apache.lucene.analysis.core.KeywordAnalyzer;
import org.apache.lucene.document.BinaryDocValuesField;
import org.apache.lucene.document.Document;
import org.apache.lucene.document.Field;
import org.apache.lucene.document.FieldType;
import org.apache.lucene.document.StoredField;
import org.apache.lucene.document.StringField;
import org.apache.lucene.index.BinaryDocValues;
import org.apache.lucene.index.CheckIndex;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.index.IndexOptions;
import org.apache.lucene.index.IndexWriter;
import org.apache.lucene.index.IndexWriterConfig;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.index.PostingsEnum;
import org.apache.lucene.index.Term;
import org.apache.lucene.search.BooleanClause;
import org.apache.lucene.search.BooleanQuery;
import org.apache.lucene.search.BoostQuery;
import org.apache.lucene.search.DocIdSetIterator;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.TermQuery;
import org.apache.lucene.store.FSDirectory;
import org.apache.lucene.util.BytesRef;

/** One Lucene index of impacts. Buffers are little-endian; strings are a length and UTF-8 bytes. */
public final class Engine {
  static final String ID = "id";
  static final String CONTENTS = "contents";
  static final String FORWARD = "forward";
  private static final String[] STORED = {"title", "text", "metadata"};

  private final FSDirectory directory;
  private final BytesRef[] vocabulary;
  private final IndexWriter writer;
  private DirectoryReader reader;
  private IndexSearcher searcher;

  public Engine(String path, byte[] vocabulary, boolean create, boolean writable)
      throws IOException {
    BooleanQuery.setMaxClauseCount(Integer.MAX_VALUE);
    directory = FSDirectory.open(Path.of(path));
    List<BytesRef> terms = new ArrayList<>();
    ByteBuffer buffer = little(vocabulary);
    while (buffer.hasRemaining()) {
      terms.add(new BytesRef(bytes(buffer)));
    }
    this.vocabulary = terms.toArray(new BytesRef[0]);
    if (writable) {
      IndexWriterConfig config = new IndexWriterConfig(new KeywordAnalyzer());
      config.setSimilarity(new ImpactSimilarity());
      config.setRAMBufferSizeMB(256);
      config.setUseCompoundFile(false);
      config.setCommitOnClose(false);
      config.setOpenMode(
          create ? IndexWriterConfig.OpenMode.CREATE : IndexWriterConfig.OpenMode.APPEND);
      writer = new IndexWriter(directory, config);
      reader = DirectoryReader.open(writer);
    } else {
      writer = null;
      reader = DirectoryReader.open(directory);
    }
    use(reader);
  }

  private void use(DirectoryReader opened) {
    reader = opened;
    searcher = new IndexSearcher(reader);
    searcher.setSimilarity(new ImpactSimilarity());
    searcher.setQueryCache(null);
  }

  /** numbers: n, n counts, all term ids, all impacts; strings: id, title, text, JSON per document. */
  public void add(byte[] numbers, byte[] strings, boolean fresh) throws IOException {
    ByteBuffer in = little(numbers);
    int[] counts = ints(in, in.getInt());
    int total = IntStream.of(counts).sum();
    int[] terms = ints(in, total);
    int[] impacts = ints(in, total);
    FieldType type = new FieldType();
    type.setIndexOptions(IndexOptions.DOCS_AND_FREQS);
    type.setTokenized(true);
    type.setOmitNorms(true);
    type.freeze();
    ByteBuffer texts = little(strings);
    int start = 0;
    for (int count : counts) {
      String id = string(texts);
      Document document = new Document();
      document.add(new StringField(ID, id, Field.Store.YES));
      document.add(new BinaryDocValuesField(ID, new BytesRef(id)));
      for (String name : STORED) {
        document.add(new StoredField(name, string(texts)));
      }
      for (int filters = texts.getInt(); filters > 0; filters--) {
        document.add(new StringField("m." + string(texts), string(texts), Field.Store.NO));
      }
      int end = start + count;
      document.add(
          new Field(CONTENTS, new ImpactStream(vocabulary, terms, impacts, start, end), type));
      document.add(new BinaryDocValuesField(FORWARD, pack(terms, impacts, start, end)));
      if (fresh) {
        writer.addDocument(document);
      } else {
        writer.updateDocument(new Term(ID, id), document);
      }
      start = end;
    }
  }

  private static BytesRef pack(int[] terms, int[] impacts, int start, int end) {
    ByteArrayOutputStream out = new ByteArrayOutputStream(3 * (end - start));
    int previous = 0;
    for (int i = start; i < end; i++) {
      vint(out, terms[i] - previous);
      vint(out, impacts[i]);
      previous = terms[i];
    }
    return new BytesRef(out.toByteArray());
  }

  private static void vint(ByteArrayOutputStream out, int value) {
    while (value > 127) {
      out.write(value & 127 | 128);
      value >>>= 7;
    }
    out.write(value);
  }

  public void delete(byte[] ids) throws IOException {
    ByteBuffer in = little(ids);
    while (in.hasRemaining()) {
      writer.deleteDocuments(new Term(ID, new BytesRef(bytes(in))));
    }
  }

  public void commit(byte[] userData) throws IOException {
    ByteBuffer in = little(userData);
    Map<String, String> data = new HashMap<>();
    while (in.hasRemaining()) {
      data.put(string(in), string(in));
    }
    writer.setLiveCommitData(data.entrySet());
    writer.commit();
    refresh();
  }

  public void refresh() throws IOException {
    DirectoryReader newer = DirectoryReader.openIfChanged(reader);
    if (newer != null) {
      reader.close();
      use(newer);
    }
  }

  public void forceMerge() throws IOException {
    writer.forceMerge(1);
  }

  /** User data of the last commit: key, value, key, value. */
  public byte[] userData() throws IOException {
    Writer out = new Writer();
    for (Map.Entry<String, String> entry : reader.getIndexCommit().getUserData().entrySet()) {
      out.string(entry.getKey().getBytes(StandardCharsets.UTF_8));
      out.string(entry.getValue().getBytes(StandardCharsets.UTF_8));
    }
    return out.bytes();
  }

  /** numbers: queries, and per query a count, term ids, weights; filters: field, value, …. */
  public byte[] search(byte[] numbers, byte[] filters, int k, int floor, int threads)
      throws Exception {
    ByteBuffer in = little(numbers);
    List<BooleanQuery> queries = new ArrayList<>();
    for (int left = in.getInt(); left > 0; left--) {
      int count = in.getInt();
      int[] terms = ints(in, count);
      int[] weights = ints(in, count);
      BooleanQuery.Builder any = new BooleanQuery.Builder();
      for (int i = 0; i < count; i++) {
        TermQuery term = new TermQuery(new Term(CONTENTS, vocabulary[terms[i]]));
        any.add(new BoostQuery(term, weights[i]), BooleanClause.Occur.SHOULD);
      }
      queries.add(filtered(any.build(), little(filters)));
    }
    List<List<TopHits.Hit>> results;
    try (var pool = java.util.concurrent.Executors.newFixedThreadPool(threads)) {
      List<java.util.concurrent.Future<List<TopHits.Hit>>> futures = new ArrayList<>();
      for (BooleanQuery query : queries) {
        futures.add(pool.submit(() -> top(query, k, floor)));
      }
      results = new ArrayList<>();
      for (var future : futures) {
        results.add(future.get());
      }
    }
    Writer out = new Writer();
    for (List<TopHits.Hit> hits : results) {
      out.integer(hits.size());
      for (TopHits.Hit hit : hits) {
        out.integer((int) hit.score());
        out.string(BytesRef.deepCopyOf(hit.id()).bytes);
      }
    }
    return out.bytes();
  }

  private static BooleanQuery filtered(BooleanQuery query, ByteBuffer filters) {
    if (!filters.hasRemaining()) {
      return query;
    }
    BooleanQuery.Builder all = new BooleanQuery.Builder().add(query, BooleanClause.Occur.MUST);
    while (filters.hasRemaining()) {
      Term term = new Term("m." + string(filters), string(filters));
      all.add(new TermQuery(term), BooleanClause.Occur.FILTER);
    }
    return all.build();
  }

  private List<TopHits.Hit> top(BooleanQuery query, int k, int floor) throws IOException {
    TopHits collector = new TopHits(k, floor);
    searcher.search(query, collector);
    List<TopHits.Hit> hits = new ArrayList<>(collector.heap);
    hits.sort(Collections.reverseOrder(TopHits.WORST_FIRST));
    return hits;
  }

  /** Per id a flag (1: found), then the forward vector, title, text and metadata JSON. */
  public byte[] fetch(byte[] ids) throws IOException {
    ByteBuffer in = little(ids);
    Writer out = new Writer();
    while (in.hasRemaining()) {
      BytesRef id = new BytesRef(bytes(in));
      boolean found = false;
      for (LeafReaderContext leaf : reader.leaves()) {
        int doc = live(leaf, id);
        if (doc < 0) {
          continue;
        }
        found = true;
        out.integer(1);
        BinaryDocValues forward = leaf.reader().getBinaryDocValues(FORWARD);
        forward.advanceExact(doc);
        out.string(BytesRef.deepCopyOf(forward.binaryValue()).bytes);
        Document stored = leaf.reader().storedFields().document(doc);
        for (String name : STORED) {
          out.string(stored.get(name).getBytes(StandardCharsets.UTF_8));
        }
        break;
      }
      if (!found) {
        out.integer(0);
      }
    }
    return out.bytes();
  }

  private static int live(LeafReaderContext leaf, BytesRef id) throws IOException {
    PostingsEnum postings = leaf.reader().postings(new Term(ID, id));
    if (postings == null) {
      return -1;
    }
    for (int doc = postings.nextDoc(); doc != DocIdSetIterator.NO_MORE_DOCS; ) {
      if (leaf.reader().getLiveDocs() == null || leaf.reader().getLiveDocs().get(doc)) {
        return doc;
      }
      doc = postings.nextDoc();
    }
    return -1;
  }

  public int documents() {
    return reader.numDocs();
  }

  public long postings() throws IOException {
    long total = 0;
    for (LeafReaderContext leaf : reader.leaves()) {
      total += leaf.reader().terms(CONTENTS) == null ? 0 : leaf.reader().terms(CONTENTS).getSumDocFreq();
    }
    return total;
  }

  /** A first byte of 1 where clean, then CheckIndex's report. */
  public byte[] check() throws IOException {
    ByteArrayOutputStream report = new ByteArrayOutputStream();
    report.write(0);
    boolean clean;
    try (CheckIndex check = new CheckIndex(directory)) {
      check.setInfoStream(new PrintStream(report, true, StandardCharsets.UTF_8));
      clean = check.checkIndex().clean;
    }
    byte[] bytes = report.toByteArray();
    bytes[0] = (byte) (clean ? 1 : 0);
    return bytes;
  }

  public void close() throws IOException {
    reader.close();
    if (writer != null) {
      writer.close();
    }
    directory.close();
  }

  private static ByteBuffer little(byte[] bytes) {
    return ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
  }

  private static int[] ints(ByteBuffer in, int count) {
    int[] values = new int[count];
    in.asIntBuffer().get(values);
    in.position(in.position() + 4 * count);
    return values;
  }

  private static byte[] bytes(ByteBuffer in) {
    byte[] value = new byte[in.getInt()];
    in.get(value);
    return value;
  }

  private static String string(ByteBuffer in) {
    return new String(bytes(in), StandardCharsets.UTF_8);
  }

  /** A growing little-endian buffer. */
  private static final class Writer {
    private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    private final DataOutputStream out = new DataOutputStream(bytes);

    void integer(int value) throws IOException {
      out.writeInt(Integer.reverseBytes(value));
    }

    void string(byte[] value) throws IOException {
      integer(value.length);
      out.write(value);
    }

    byte[] bytes() {
      return bytes.toByteArray();
    }
  }
}
