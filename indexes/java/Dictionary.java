package lsr.lucene;

import java.io.IOException;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.lucene.index.FieldInvertState;
import org.apache.lucene.index.Impact;
import org.apache.lucene.index.Impacts;
import org.apache.lucene.index.ImpactsEnum;
import org.apache.lucene.index.LeafReaderContext;
import org.apache.lucene.index.PostingsEnum;
import org.apache.lucene.index.Term;
import org.apache.lucene.index.TermState;
import org.apache.lucene.index.TermStates;
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
 * A cache of what queries need about a reader's terms, filled when a term is first used: where its
 * postings are, which takes a lookup in every segment, and its largest impact.
 *
 * <p>Lucene knows the largest impact in a range of documents only if skip lists cover the range,
 * and otherwise assumes infinity. A query's common terms of low weight would then seem able to make
 * a hit alone, and all their postings would be read.
 */
final class Dictionary extends Similarity {
  private record Entry(TermStates states, int largest) {}

  private final IndexSearcher searcher;
  private final Map<BytesRef, Entry> entries = new ConcurrentHashMap<>();

  Dictionary(IndexSearcher searcher) {
    this.searcher = searcher;
  }

  /** A query for the documents that hold any of these terms. */
  BooleanQuery any(Weights weights, BytesRef[] vocabulary) throws IOException {
    BooleanQuery.Builder any = new BooleanQuery.Builder();
    for (int i = 0; i < weights.terms.length; i++) {
      any.add(
          new BoostQuery(query(vocabulary[weights.terms[i]]), weights.weights[i]),
          BooleanClause.Occur.SHOULD);
    }
    return any.build();
  }

  private TermQuery query(BytesRef term) throws IOException {
    Entry entry = entries.get(term);
    Term of = new Term(Engine.CONTENTS, term);
    if (entry == null) {
      TermStates states = TermStates.build(searcher, of, true);
      entry = new Entry(states, largest(states, term));
      entries.put(term, entry);
    }
    return new TermQuery(of, entry.states);
  }

  private int largest(TermStates states, BytesRef term) throws IOException {
    int largest = 0;
    for (LeafReaderContext leaf : searcher.getLeafContexts()) {
      TermState state = states.get(leaf);
      if (state != null) {
        TermsEnum terms = leaf.reader().terms(Engine.CONTENTS).iterator();
        terms.seekExact(term, state);
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
      int highest = 0;
      for (Impact impact : impacts.getImpacts(level)) {
        highest = Math.max(highest, impact.freq);
      }
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

  @Override
  public long computeNorm(FieldInvertState state) {
    return 1;
  }

  /** Weight × impact, where the impact is capped at the term's largest. */
  @Override
  public SimScorer scorer(float weight, CollectionStatistics all, TermStatistics... terms) {
    Entry entry = entries.get(terms[0].term());
    int largest = entry == null ? Integer.MAX_VALUE : entry.largest;
    return new SimScorer() {
      @Override
      public float score(float impact, long norm) {
        return weight * Math.min(impact, largest);
      }
    };
  }
}
