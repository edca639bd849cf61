package lsr.lucene;

import java.io.IOException;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.lucene.index.FieldInvertState;
import org.apache.lucene.index.Impacts;
import org.apache.lucene.index.ImpactsEnum;
import org.apache.lucene.index.IndexReader;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.index.PostingsEnum;
import org.apache.lucene.index.Term;
import org.apache.lucene.index.TermStates;
import org.apache.lucene.index.Terms;
import org.apache.lucene.index.TermsEnum;
import org.apache.lucene.search.BooleanClause;
import org.apache.lucene.search.BooleanQuery;
import org.apache.lucene.search.BoostQuery;
import org.apache.lucene.search.CollectionStatistics;
import org.apache.lucene.search.DocIdSetIterator;
import org.apache.lucene.search.IndexSearcher;
import org.apache.lucene.search.TermQuery;
import org.apache.lucene.search.TermStatistics;
import org.apache.lucene.search.similarities.Similarity;
import org.apache.lucene.util.BytesRef;

/**
 * What queries need to know of a reader's terms, kept from when a term is first searched for: where
 * its postings lie, which is a search in every segment, and a learned term's largest impact.
 *
 * <p>Lucene knows the largest impact of a range of documents only where skip lists cover the range,
 * and else takes it for infinite. A query's common terms of little weight would then count as ones
 * that alone make a hit, and all their postings would be read. Words need no such bound, because
 * their scores have one.
 */
final class Dictionary {
  private record Entry(TermStates states, int largest) {}

  private final IndexReader reader;
  private final Map<Term, Entry> entries = new ConcurrentHashMap<>();

  Dictionary(IndexReader reader) {
    this.reader = reader;
  }

  /** Documents that hold any of a query's learned terms and words. */
  BooleanQuery any(Weights weights, BytesRef[] vocabulary) throws IOException {
    BooleanQuery.Builder any = new BooleanQuery.Builder();
    for (int i = 0; i < weights.terms.length; i++) {
      add(any, Engine.LEARNED, vocabulary[weights.terms[i]], weights.weights[i]);
    }
    for (int i = 0; i < weights.words.length; i++) {
      add(any, Engine.CONTENTS, weights.words[i], weights.inContents[i]);
      add(any, Engine.TITLE, weights.words[i], weights.inTitle[i]);
    }
    return any.build();
  }

  /** How many postings a query's learned terms and words have together. */
  long postings(Weights weights, BytesRef[] vocabulary) throws IOException {
    long postings = 0;
    for (int term : weights.terms) {
      postings += entry(new Term(Engine.LEARNED, vocabulary[term])).states.docFreq();
    }
    for (int i = 0; i < weights.words.length; i++) {
      if (weights.inContents[i] > 0) {
        postings += entry(new Term(Engine.CONTENTS, weights.words[i])).states.docFreq();
      }
      if (weights.inTitle[i] > 0) {
        postings += entry(new Term(Engine.TITLE, weights.words[i])).states.docFreq();
      }
    }
    return postings;
  }

  private void add(BooleanQuery.Builder any, String field, BytesRef text, int weight)
      throws IOException {
    if (weight > 0) {
      Term term = new Term(field, text);
      any.add(
          new BoostQuery(new TermQuery(term, entry(term).states), weight),
          BooleanClause.Occur.SHOULD);
    }
  }

  private Entry entry(Term term) throws IOException {
    Entry entry = entries.get(term);
    if (entry == null) {
      TermStates states = TermStates.build(new IndexSearcher(reader), term, true);
      boolean learned = term.field().equals(Engine.LEARNED);
      entry = new Entry(states, learned ? largest(term.bytes()) : 0);
      entries.put(term, entry);
    }
    return entry;
  }

  private int largest(BytesRef term) throws IOException {
    int largest = 0;
    for (LeafReaderContext leaf : reader.leaves()) {
      Terms all = leaf.reader().terms(Engine.LEARNED);
      TermsEnum terms = all == null ? TermsEnum.EMPTY : all.iterator();
      if (terms.seekExact(term)) {
        largest = Math.max(largest, largest(terms.impacts(PostingsEnum.FREQS)));
      }
    }
    return largest;
  }

  private static int largest(ImpactsEnum postings) throws IOException {
    int largest = 0;
    for (int doc = 0; doc != DocIdSetIterator.NO_MORE_DOCS; ) {
      postings.advanceShallow(doc);
      Impacts impacts = postings.getImpacts();
      int level = impacts.numLevels() - 1;
      int highest = highest(impacts, level);
      if (highest == Integer.MAX_VALUE) {
        // The skip lists do not cover the last postings.
        for (doc = postings.advance(doc); doc != DocIdSetIterator.NO_MORE_DOCS; ) {
          largest = Math.max(largest, postings.freq());
          doc = postings.nextDoc();
        }
        return largest;
      }
      largest = Math.max(largest, highest);
      int last = impacts.getDocIdUpTo(level);
      doc = last == DocIdSetIterator.NO_MORE_DOCS ? last : last + 1;
    }
    return largest;
  }

  /** The largest frequency of a level: Lucene 10.3 has other classes for it than those before. */
  private static int highest(Impacts impacts, int level) {
    try {
      Object found = Impacts.class.getMethod("getImpacts", int.class).invoke(impacts, level);
      int highest = 0;
      if (found instanceof List<?> all) {
        for (Object one : all) {
          highest = Math.max(highest, one.getClass().getField("freq").getInt(one));
        }
        return highest;
      }
      int[] frequencies = (int[]) found.getClass().getField("freqs").get(found);
      for (int i = found.getClass().getField("size").getInt(found) - 1; i >= 0; i--) {
        highest = Math.max(highest, frequencies[i]);
      }
      return highest;
    } catch (ReflectiveOperationException error) {
      throw new IllegalStateException("this version of Lucene is not supported", error);
    }
  }

  /** Scores terms of the fields LEARNED, CONTENTS and TITLE, for one setting of BM25. */
  Similarity similarity(WordSimilarity contents, WordSimilarity title) {
    return new Similarity() {
      @Override
      public long computeNorm(FieldInvertState state) {
        throw new UnsupportedOperationException("for searches");
      }

      /** Weight × impact, where no impact is above the term's largest; or weight × word's score. */
      @Override
      public SimScorer scorer(float weight, CollectionStatistics all, TermStatistics... terms) {
        if (all.field().equals(Engine.LEARNED)) {
          Entry entry = entries.get(new Term(Engine.LEARNED, terms[0].term()));
          int largest = entry == null ? Integer.MAX_VALUE : entry.largest;
          return new SimScorer() {
            @Override
            public float score(float impact, long norm) {
              return weight * Math.min(impact, largest);
            }
          };
        }
        WordSimilarity words = all.field().equals(Engine.TITLE) ? title : contents;
        return new SimScorer() {
          @Override
          public float score(float frequency, long norm) {
            return weight * words.score(frequency, norm);
          }
        };
      }
    };
  }
}
