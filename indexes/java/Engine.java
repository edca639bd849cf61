package lsr.lucene;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.text.ParseException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.logging.Level;
import java.util.logging.Logger;
import org.apache.lucene.analysis.Analyzer;
import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.synonym.SynonymGraphFilter;
import org.apache.lucene.analysis.tokenattributes.OffsetAttribute;
import org.apache.lucene.analysis.tokenattributes.PositionIncrementAttribute;
import org.apache.lucene.analysis.tokenattributes.PositionLengthAttribute;
import org.apache.lucene.analysis.tokenattributes.TermToBytesRefAttribute;
import org.apache.lucene.analysis.tokenattributes.TypeAttribute;
import org.apache.lucene.document.BinaryDocValuesField;
import org.apache.lucene.document.Document;
import org.apache.lucene.document.Field;
import org.apache.lucene.document.FieldType;
import org.apache.lucene.document.NumericDocValuesField;
import org.apache.lucene.document.StoredField;
import org.apache.lucene.document.StringField;
import org.apache.lucene.document.TextField;
import org.apache.lucene.index.BinaryDocValues;
import org.apache.lucene.index.CheckIndex;
import org.apache.lucene.index.DirectoryReader;
import org.apache.lucene.index.IndexOptions;
import org.apache.lucene.index.IndexWriter;
import org.apache.lucene.index.IndexWriterConfig;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.index.Term;
import org.apache.lucene.index.Terms;
import org.apache.lucene.search.BulkScorer;
import org.apache.lucene.search.CollectionStatistics;
import org.apache.lucene.search.DocIdSetIterator;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.Query;
import org.apache.lucene.search.Weight;
import org.apache.lucene.search.similarities.BM25Similarity;
import org.apache.lucene.store.FSDirectory;
import org.apache.lucene.util.Bits;
import org.apache.lucene.util.BytesRef;

/** One Lucene index of learned terms and words; for its buffers see Packed. */
public final class Engine {
  static final String ID = "id";
  /** Learned terms, with the impact as term frequency. */
  static final String LEARNED = "learned";

  /** Words of title and text; named as Anserini names them. */
  static final String CONTENTS = "contents";

  static final String TITLE = "title";

  /** The encoder's tokens that a text itself holds. */
  static final String TOKENS = "tokens";

  static final String FORWARD = "forward";

  /** A passage's number, which is never given again. */
  static final String PASSAGE = "passage";

  static final String[] STORED = {TITLE, "text", "metadata"};
  private static final String NEXT_PASSAGE = "next_passage";
  /** How many documents a thread adds at a time. */
  private static final int STRIDE = 64;
  private static final FieldType IMPACTS = new FieldType();
  private static final FieldType TOKEN = new FieldType();
  // Daemon threads: the VM does not wait for them when it exits.
  private static final ExecutorService POOL =
      Executors.newCachedThreadPool(
          task -> {
            Thread thread = new Thread(task, "lsr");
            thread.setDaemon(true);
            return thread;
          });
  // A reference, so that the logger keeps its level. Lucene warns about runtimes it is slower on.
  private static final Logger LUCENE = Logger.getLogger("org.apache.lucene");

  static {
    IMPACTS.setIndexOptions(IndexOptions.DOCS_AND_FREQS);
    IMPACTS.setTokenized(true);
    IMPACTS.setOmitNorms(true);
    IMPACTS.freeze();
    TOKEN.setIndexOptions(IndexOptions.DOCS);
    TOKEN.setTokenized(true);
    TOKEN.setOmitNorms(true);
    TOKEN.freeze();
    LUCENE.setLevel(Level.SEVERE);
    IndexSearcher.setMaxClauseCount(Integer.MAX_VALUE);
  }

  /**
   * Postings of a query that cost as much as the score of one document by its forward vector, and
   * those that cost as much as the start of a query. A property of the VM sets the first for
   * benchmarks.
   */
  private static final long DIRECT = Long.getLong("lsr.direct", 192);

  private static final long START = 10_000;

  private final FSDirectory directory;
  private final BytesRef[] vocabulary;
  private final Analyzer analyzer;
  private final IndexWriter writer;
  /** The analyzer, with synonyms where there are any. */
  private Analyzer queries;
  private Filters filters;
  private DirectoryReader reader;
  private Dictionary dictionary;
  private long nextPassage;

  public Engine(
      String path, byte[] vocabulary, String language, boolean create, boolean writable)
      throws IOException, ReflectiveOperationException {
    analyzer = Languages.analyzer(language);
    ask(analyzer);
    directory = FSDirectory.open(Path.of(path));
    List<BytesRef> terms = new ArrayList<>();
    ByteBuffer buffer = Packed.little(vocabulary);
    while (buffer.hasRemaining()) {
      terms.add(new BytesRef(Packed.bytes(buffer)));
    }
    this.vocabulary = terms.toArray(new BytesRef[0]);
    if (writable) {
      IndexWriterConfig config = new IndexWriterConfig(analyzer);
      config.setSimilarity(new BM25Similarity());
      config.setRAMBufferSizeMB(256);
      config.setUseCompoundFile(false);
      config.setCommitOnClose(false);
      config.setOpenMode(
          create ? IndexWriterConfig.OpenMode.CREATE : IndexWriterConfig.OpenMode.APPEND);
      writer = new IndexWriter(directory, config);
      reader = DirectoryReader.open(writer);
      nextPassage = create ? 0 : Long.parseLong(userDataOf(reader).getOrDefault(NEXT_PASSAGE, "0"));
    } else {
      writer = null;
      reader = DirectoryReader.open(directory);
    }
    use(reader);
  }

  private void use(DirectoryReader opened) {
    reader = opened;
    dictionary = new Dictionary(reader);
  }

  private void ask(Analyzer analyzer) {
    queries = analyzer;
    filters = new Filters(this.analyzer, analyzer);
  }

  /**
   * Give the words of queries synonyms, in Solr's format, or none where there are no rules. Returns
   * why the rules cannot be read, with their line; then those before stay.
   */
  public String synonyms(byte[] rules) throws IOException {
    try {
      String given = new String(rules, StandardCharsets.UTF_8);
      ask(rules.length == 0 ? analyzer : new Synonyms(analyzer, given));
    } catch (ParseException error) {
      String where = error.getMessage().replace("Invalid synonym rule at ", "");
      return error.getCause() == null ? where : where + ": " + error.getCause().getMessage();
    }
    return "";
  }

  private static Map<String, String> userDataOf(DirectoryReader reader) throws IOException {
    return reader.getIndexCommit().getUserData();
  }

  /**
   * numbers: n, n term counts, all term ids, all impacts, n counts of own tokens, all own tokens;
   * strings, per document: id, title, text, metadata JSON, and what Metadata adds.
   */
  public void add(byte[] numbers, byte[] strings, boolean fresh, int threads) throws Exception {
    ByteBuffer in = Packed.little(numbers);
    int n = in.getInt();
    int[] starts = starts(in, n);
    int[] terms = Packed.ints(in, starts[n]);
    int[] impacts = Packed.ints(in, starts[n]);
    int[] ownStarts = starts(in, n);
    int[] own = Packed.ints(in, ownStarts[n]);
    ByteBuffer texts = Packed.little(strings);
    List<Callable<Void>> tasks = new ArrayList<>();
    for (int first = 0; first < n; first += STRIDE) {
      List<Document> batch = new ArrayList<>();
      for (int i = first; i < Math.min(first + STRIDE, n); i++) {
        Document document = described(texts);
        learned(document, terms, impacts, starts[i], starts[i + 1]);
        tokens(document, own, ownStarts[i], ownStarts[i + 1]);
        document.add(new NumericDocValuesField(PASSAGE, nextPassage++));
        batch.add(document);
      }
      tasks.add(
          () -> {
            for (Document document : batch) {
              if (fresh) {
                writer.addDocument(document);
              } else {
                writer.updateDocument(new Term(ID, document.get(ID)), document);
              }
            }
            return null;
          });
    }
    parallel(tasks, threads);
  }

  /**
   * Replaces the metadata of documents that the last commit has; all else stays as it is. numbers:
   * n, n counts of own tokens, all own tokens; strings: as in add.
   */
  public void revise(byte[] numbers, byte[] strings, int threads) throws Exception {
    ByteBuffer in = Packed.little(numbers);
    int n = in.getInt();
    int[] starts = starts(in, n);
    int[] own = Packed.ints(in, starts[n]);
    ByteBuffer texts = Packed.little(strings);
    List<Callable<Void>> tasks = new ArrayList<>();
    for (int i = 0; i < n; i++) {
      Document document = described(texts);
      tokens(document, own, starts[i], starts[i + 1]);
      tasks.add(
          () -> {
            String id = document.get(ID);
            Kept kept = Kept.of(reader, id);
            learned(document, kept.terms(), kept.impacts(), 0, kept.terms().length);
            document.add(new NumericDocValuesField(PASSAGE, kept.passage()));
            writer.updateDocument(new Term(ID, id), document);
            return null;
          });
    }
    parallel(tasks, threads);
  }

  private void learned(Document document, int[] terms, int[] impacts, int start, int end) {
    ImpactStream stream = new ImpactStream(vocabulary, terms, impacts, start, end);
    document.add(new Field(LEARNED, stream, IMPACTS));
    BytesRef forward = Packed.forward(terms, impacts, start, end);
    document.add(new BinaryDocValuesField(FORWARD, forward));
  }

  private void tokens(Document document, int[] own, int start, int end) {
    document.add(new Field(TOKENS, new ImpactStream(vocabulary, own, null, start, end), TOKEN));
  }

  /** n counts as n + 1 places: where each of n parts begins, and where the last ends. */
  private static int[] starts(ByteBuffer in, int n) {
    int[] counts = Packed.ints(in, n);
    int[] starts = new int[n + 1];
    for (int i = 0; i < n; i++) {
      starts[i + 1] = starts[i] + counts[i];
    }
    return starts;
  }

  private static Document described(ByteBuffer in) {
    Document document = new Document();
    byte[] id = Packed.bytes(in);
    document.add(new StringField(ID, new String(id, StandardCharsets.UTF_8), Field.Store.YES));
    document.add(new BinaryDocValuesField(ID, new BytesRef(id)));
    String title = Packed.string(in);
    String text = Packed.string(in);
    document.add(new TextField(TITLE, title, Field.Store.YES));
    document.add(new StoredField("text", text));
    document.add(new StoredField("metadata", Packed.string(in)));
    document.add(new TextField(CONTENTS, (title + " " + text).strip(), Field.Store.NO));
    Metadata.add(in, document);
    return document;
  }

  /** Returns results in the order of the tasks, of which at most `threads` run at once. */
  private static <T> List<T> parallel(List<Callable<T>> tasks, int threads) throws Exception {
    List<T> results = new ArrayList<>();
    if (threads == 1 || tasks.size() < 2) {
      for (Callable<T> task : tasks) {
        results.add(task.call());
      }
      return results;
    }
    AtomicInteger next = new AtomicInteger();
    List<T> slots = new ArrayList<>(Collections.nCopies(tasks.size(), null));
    List<Future<?>> workers = new ArrayList<>();
    for (int worker = 0; worker < Math.min(threads, tasks.size()); worker++) {
      workers.add(
          POOL.submit(
              () -> {
                for (int i = next.getAndIncrement(); i < tasks.size(); ) {
                  slots.set(i, tasks.get(i).call());
                  i = next.getAndIncrement();
                }
                return null;
              }));
    }
    Exception first = null;
    for (Future<?> worker : workers) {
      try {
        worker.get();
      } catch (ExecutionException error) {
        first = error.getCause() instanceof Exception cause ? cause : error;
      }
    }
    if (first != null) {
      throw first;
    }
    return slots;
  }

  public void delete(byte[] ids) throws IOException {
    ByteBuffer in = Packed.little(ids);
    while (in.hasRemaining()) {
      writer.deleteDocuments(new Term(ID, new BytesRef(Packed.bytes(in))));
    }
  }

  public void commit(byte[] userData) throws IOException {
    ByteBuffer in = Packed.little(userData);
    Map<String, String> data = new HashMap<>();
    while (in.hasRemaining()) {
      data.put(Packed.string(in), Packed.string(in));
    }
    data.put(NEXT_PASSAGE, Long.toString(nextPassage));
    writer.setLiveCommitData(data.entrySet());
    writer.commit();
    refresh();
  }

  /** Whether there was a newer commit, which is now seen. */
  public boolean refresh() throws IOException {
    DirectoryReader newer = DirectoryReader.openIfChanged(reader);
    if (newer == null) {
      return false;
    }
    reader.close();
    use(newer);
    return true;
  }

  public void forceMerge() throws IOException {
    writer.forceMerge(1);
  }

  /** The user data of the last commit: key, value, key, value… */
  public byte[] userData() throws IOException {
    Packed.Writer out = new Packed.Writer();
    Map<String, String> data = new TreeMap<>(userDataOf(reader));
    data.remove(NEXT_PASSAGE);
    for (Map.Entry<String, String> entry : data.entrySet()) {
      out.string(entry.getKey().getBytes(StandardCharsets.UTF_8));
      out.string(entry.getValue().getBytes(StandardCharsets.UTF_8));
    }
    return out.bytes();
  }

  /**
   * numbers: the number of queries, and each as in Weights; words: k1 and b as doubles, and each
   * query as in Weights; filter: as in Filters, or empty. Returns the number of hits of each query, then the scores of all hits as longs,
   * then their ids as in Packed.strings.
   */
  public byte[] search(byte[] numbers, byte[] words, byte[] filter, int k, long floor, int threads)
      throws Exception {
    ByteBuffer in = Packed.little(numbers);
    ByteBuffer strings = Packed.little(words);
    WordScoring scoring = scoring(strings);
    IndexSearcher searcher = searcher(scoring);
    List<Filters.Docs> among = filter.length == 0 ? null : filters.of(reader, filter);
    List<Callable<List<TopHits.Hit>>> tasks = new ArrayList<>();
    for (int left = in.getInt(); left > 0; left--) {
      Weights weights = new Weights(in, strings, vocabulary.length);
      TopHits hits = new TopHits(k, floor, weights, scoring.contents, scoring.title);
      tasks.add(() -> top(searcher, weights, among, hits));
    }
    Packed.Writer out = new Packed.Writer();
    List<TopHits.Hit> all = new ArrayList<>();
    for (List<TopHits.Hit> hits : parallel(tasks, threads)) {
      out.integer(hits.size());
      all.addAll(hits);
    }
    for (TopHits.Hit hit : all) {
      out.number(hit.score());
    }
    out.strings(all.stream().map(TopHits.Hit::id).toList());
    return out.bytes();
  }

  private record WordScoring(WordSimilarity contents, WordSimilarity title) {}

  /** in: k1 and b as doubles. */
  private WordScoring scoring(ByteBuffer in) throws IOException {
    double k1 = in.getDouble();
    double b = in.getDouble();
    return new WordScoring(
        new WordSimilarity(k1, b, averageLength(CONTENTS)),
        new WordSimilarity(k1, b, averageLength(TITLE)));
  }

  private double averageLength(String field) throws IOException {
    CollectionStatistics all = new IndexSearcher(reader).collectionStatistics(field);
    return all == null ? 1 : (double) all.sumTotalTermFreq() / all.docCount();
  }

  private IndexSearcher searcher(WordScoring scoring) {
    IndexSearcher searcher = new IndexSearcher(reader);
    searcher.setSimilarity(dictionary.similarity(scoring.contents, scoring.title));
    searcher.setQueryCache(null);
    return searcher;
  }

  /** The hits of a query; `among`: the documents of each segment that may be, null for all. */
  private List<TopHits.Hit> top(
      IndexSearcher searcher, Weights weights, List<Filters.Docs> among, TopHits collector)
      throws IOException {
    if (among != null
        && Filters.count(among) * DIRECT <= START + dictionary.postings(weights, vocabulary)) {
      for (LeafReaderContext leaf : reader.leaves()) {
        collector.score(leaf, among.get(leaf.ord).bits());
      }
    } else {
      Query query = searcher.rewrite(dictionary.any(weights, vocabulary));
      Weight weight = searcher.createWeight(query, collector.scoreMode(), 1);
      for (LeafReaderContext leaf : reader.leaves()) {
        Bits accepted =
            among == null ? leaf.reader().getLiveDocs() : among.get(leaf.ord).bits();
        BulkScorer scorer = weight.bulkScorer(leaf);
        if (scorer != null) {
          // A clause of the query in place of `accepted` would cost it its block-max pruning.
          scorer.score(
              collector.getLeafCollector(leaf), accepted, 0, DocIdSetIterator.NO_MORE_DOCS);
        }
      }
    }
    List<TopHits.Hit> hits = new ArrayList<>(collector.heap);
    hits.sort(Collections.reverseOrder(TopHits.WORST_FIRST));
    return hits;
  }

  /** Per id a flag (1: found), and if found title, text and metadata JSON. */
  public byte[] fetch(byte[] ids) throws IOException {
    return Lookup.fetch(reader, ids);
  }

  /** Forward vectors: how many terms each has (−1: not found), all term ids, all impacts. */
  public byte[] vectors(byte[] ids) throws IOException {
    return Lookup.vectors(reader, ids);
  }

  /** How many documents pass a filter, and their ids as in Packed.strings. */
  public byte[] matching(byte[] filter) throws IOException {
    return Lookup.ids(reader, filters.of(reader, filter));
  }

  /** How many documents pass a filter. */
  public long count(byte[] filter) throws IOException {
    return Filters.count(filters.of(reader, filter));
  }

  /**
   * How many documents pass a filter, a long, and what Facets counts among them. facets: the most
   * code points of a term that is its string, a count, and so many facets as in Facets.count.
   */
  public byte[] counts(byte[] filter, byte[] facets) throws IOException {
    List<Filters.Docs> among = filters.of(reader, filter);
    ByteBuffer in = Packed.little(facets);
    Facets of = new Facets(reader, among, in.getInt());
    Packed.Writer out = new Packed.Writer();
    out.number(Filters.count(among));
    for (int left = in.getInt(); left > 0; left--) {
      of.count(in, filters, out);
    }
    return out.bytes();
  }

  /** The values of documents under a key of metadata, see MetadataValues. */
  public byte[] values(String key, byte[] ids) throws IOException {
    ByteBuffer in = Packed.little(ids);
    List<BytesRef> of = new ArrayList<>();
    while (in.hasRemaining()) {
      of.add(new BytesRef(Packed.bytes(in)));
    }
    return MetadataValues.of(reader, key, of.toArray(new BytesRef[0]));
  }

  /** Of each segment its number of documents, and as longs the bits of those that pass a filter. */
  public byte[] passing(byte[] filter) throws IOException {
    Packed.Writer out = new Packed.Writer();
    for (Filters.Docs docs : filters.of(reader, filter)) {
      out.integer(docs.bits().length());
      out.bits(docs.bits());
    }
    return out.bytes();
  }

  /** Of each segment a name that no other ever has, and its number of documents. */
  public byte[] segments() throws IOException {
    Packed.Writer out = new Packed.Writer();
    for (LeafReaderContext leaf : reader.leaves()) {
      out.string(Lookup.name(leaf).getBytes(StandardCharsets.UTF_8));
      out.integer(leaf.reader().maxDoc());
    }
    return out.bytes();
  }

  /** The ids of a segment's documents, those deleted too, as in Packed.strings. */
  public byte[] idsOf(String segment) throws IOException {
    return Lookup.idsOf(reader, segment);
  }

  /** The fields of metadata, see Metadata: a string each. */
  public byte[] fields() throws IOException {
    return Metadata.fields(reader);
  }

  /**
   * Documents that hold each term of the vocabulary, in a field of learned terms or of tokens; those
   * deleted and not merged away included.
   */
  public byte[] frequencies(String field) throws IOException {
    return Lookup.frequencies(reader, field, vocabulary);
  }

  /** Documents with words, an integer, then how many of them hold each word, as frequencies. */
  public byte[] wordFrequencies(byte[] words) throws IOException {
    ByteBuffer in = Packed.little(words);
    List<BytesRef> of = new ArrayList<>();
    while (in.hasRemaining()) {
      of.add(new BytesRef(Packed.bytes(in)));
    }
    CollectionStatistics all = new IndexSearcher(reader).collectionStatistics(CONTENTS);
    Packed.Writer out = new Packed.Writer();
    out.integer(all == null ? 0 : (int) all.docCount());
    out.bytes(Lookup.frequencies(reader, CONTENTS, of.toArray(new BytesRef[0])));
    return out.bytes();
  }

  /**
   * The words of title and text that a pattern stands for, see Patterns: how many there are, then at
   * most so many of them, each with its edits.
   */
  public byte[] expand(String pattern, int edits, int most) throws IOException {
    Packed.Writer out = new Packed.Writer();
    List<Patterns.Found> found = Patterns.words(reader, analyzer, CONTENTS, pattern, edits);
    out.integer(found.size());
    for (Patterns.Found word : found.subList(0, Math.min(most, found.size()))) {
      out.string(word.word());
      out.integer(word.edits());
    }
    return out.bytes();
  }

  /**
   * The words of each text in its order: a count, then each one, its start and its end, its position
   * and how many positions it takes, and 1 where it is a synonym. asked: whether the texts are
   * queries, which alone have synonyms.
   */
  public byte[] analyse(byte[] texts, boolean asked) throws IOException {
    ByteBuffer in = Packed.little(texts);
    Packed.Writer out = new Packed.Writer();
    while (in.hasRemaining()) {
      String text = Packed.string(in);
      boolean pairs = text.length() != text.codePointCount(0, text.length());
      Packed.Writer words = new Packed.Writer();
      int count = 0;
      int position = -1;
      try (TokenStream stream = (asked ? queries : analyzer).tokenStream(CONTENTS, text)) {
        TermToBytesRefAttribute word = stream.getAttribute(TermToBytesRefAttribute.class);
        OffsetAttribute offset = stream.getAttribute(OffsetAttribute.class);
        PositionIncrementAttribute step = stream.addAttribute(PositionIncrementAttribute.class);
        PositionLengthAttribute length = stream.addAttribute(PositionLengthAttribute.class);
        TypeAttribute type = stream.addAttribute(TypeAttribute.class);
        stream.reset();
        for (; stream.incrementToken(); count++) {
          words.string(word.getBytesRef());
          for (int at : new int[] {offset.startOffset(), offset.endOffset()}) {
            words.integer(pairs ? text.codePointCount(0, at) : at);
          }
          position += step.getPositionIncrement();
          words.integer(position);
          words.integer(length.getPositionLength());
          words.integer(type.type().equals(SynonymGraphFilter.TYPE_SYNONYM) ? 1 : 0);
        }
        stream.end();
      }
      out.integer(count);
      out.append(words);
    }
    return out.bytes();
  }

  /** The scores of one query's words in each document, see Lookup.words; numbers, words as search. */
  public byte[] words(byte[] numbers, byte[] words, byte[] ids) throws IOException {
    ByteBuffer strings = Packed.little(words);
    ByteBuffer in = Packed.little(ids);
    ByteBuffer one = Packed.little(numbers);
    one.getInt();
    WordScoring scoring = scoring(strings);
    Weights weights = new Weights(one, strings, vocabulary.length);
    List<BytesRef> names = new ArrayList<>();
    while (in.hasRemaining()) {
      names.add(new BytesRef(Packed.bytes(in)));
    }
    BytesRef[] of = names.toArray(new BytesRef[0]);
    Packed.Writer out = new Packed.Writer();
    for (int part : Lookup.words(reader, weights, scoring.contents, scoring.title, of)) {
      out.integer(part);
    }
    return out.bytes();
  }

  /**
   * The scores that search would give to these documents, a long each in the order of ids; −1: not
   * found. numbers, words: as in search, then how many ids belong to each query; ids: all of them.
   */
  public byte[] score(byte[] numbers, byte[] words, byte[] ids, int threads) throws Exception {
    ByteBuffer in = Packed.little(numbers);
    ByteBuffer strings = Packed.little(words);
    ByteBuffer names = Packed.little(ids);
    WordScoring scoring = scoring(strings);
    List<Weights> queries = new ArrayList<>();
    for (int left = in.getInt(); left > 0; left--) {
      queries.add(new Weights(in, strings, vocabulary.length));
    }
    List<Callable<long[]>> tasks = new ArrayList<>();
    for (Weights weights : queries) {
      BytesRef[] asked = new BytesRef[in.getInt()];
      for (int j = 0; j < asked.length; j++) {
        asked[j] = new BytesRef(Packed.bytes(names));
      }
      tasks.add(
          () -> Lookup.scores(reader, weights, scoring.contents, scoring.title, asked));
    }
    Packed.Writer out = new Packed.Writer();
    for (long[] scores : parallel(tasks, threads)) {
      for (long score : scores) {
        out.number(score);
      }
    }
    return out.bytes();
  }

  public int documents() {
    return reader.numDocs();
  }

  public long postings() throws IOException {
    long total = 0;
    for (LeafReaderContext leaf : reader.leaves()) {
      Terms terms = leaf.reader().terms(LEARNED);
      total += terms == null ? 0 : terms.getSumDocFreq();
    }
    return total;
  }

  /** A byte, 1 if the index is clean, then CheckIndex's report. */
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
}
