package lsr.lucene;

import java.io.IOException;
import java.io.StringReader;
import java.text.ParseException;
import org.apache.lucene.analysis.Analyzer;
import org.apache.lucene.analysis.AnalyzerWrapper;
import org.apache.lucene.analysis.FilteringTokenFilter;
import org.apache.lucene.analysis.TokenFilter;
import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.synonym.SolrSynonymParser;
import org.apache.lucene.analysis.synonym.SynonymGraphFilter;
import org.apache.lucene.analysis.synonym.SynonymMap;
import org.apache.lucene.analysis.tokenattributes.CharTermAttribute;
import org.apache.lucene.analysis.tokenattributes.PositionIncrementAttribute;

/**
 * The analyzer of queries: words as an index has them, each beside its synonyms. These are analysed
 * like all words, so that they are stems where the index holds stems.
 *
 * <p>Lucene's filter forgets the gaps that stop words leave, and its parser refuses them. So each gap
 * is a word of its own while they work.
 */
final class Synonyms extends AnalyzerWrapper {
  /** Stands for a stop word; no text holds it, since it is a character without a meaning. */
  private static final String GAP = "\uE000";

  private final Analyzer words;
  private final SynonymMap rules;

  /** rules: in Solr's format. */
  Synonyms(Analyzer words, String rules) throws IOException, ParseException {
    super(PER_FIELD_REUSE_STRATEGY);
    this.words = words;
    SolrSynonymParser parser = new SolrSynonymParser(true, true, new WithGaps(words));
    parser.parse(new StringReader(rules));
    this.rules = parser.build();
    if (this.rules.fst == null) {
      throw new ParseException("no line gives a word a synonym", 0);
    }
  }

  @Override
  protected Analyzer getWrappedAnalyzer(String field) {
    return words;
  }

  @Override
  protected TokenStreamComponents wrapComponents(String field, TokenStreamComponents of) {
    TokenStream beside = new SynonymGraphFilter(new Gaps(of.getTokenStream()), rules, false);
    return new TokenStreamComponents(of.getSource(), new NoGaps(beside));
  }

  private static final class WithGaps extends AnalyzerWrapper {
    private final Analyzer words;

    WithGaps(Analyzer words) {
      super(PER_FIELD_REUSE_STRATEGY);
      this.words = words;
    }

    @Override
    protected Analyzer getWrappedAnalyzer(String field) {
      return words;
    }

    @Override
    protected TokenStreamComponents wrapComponents(String field, TokenStreamComponents of) {
      return new TokenStreamComponents(of.getSource(), new Gaps(of.getTokenStream()));
    }
  }

  /** Puts words into the gaps between words; one before the first word is none. */
  private static final class Gaps extends TokenFilter {
    private final CharTermAttribute term = addAttribute(CharTermAttribute.class);
    private final PositionIncrementAttribute step = addAttribute(PositionIncrementAttribute.class);
    private boolean first;
    private int gaps;
    private State next;

    Gaps(TokenStream in) {
      super(in);
    }

    @Override
    public boolean incrementToken() throws IOException {
      if (next == null) {
        if (!input.incrementToken()) {
          return false;
        }
        if (first) {
          step.setPositionIncrement(1);
          first = false;
        }
        gaps = step.getPositionIncrement() - 1;
        if (gaps <= 0) {
          return true;
        }
        next = captureState();
      }
      restoreState(next);
      step.setPositionIncrement(1);
      if (gaps-- > 0) {
        term.setEmpty().append(GAP);
      } else {
        next = null;
      }
      return true;
    }

    @Override
    public void reset() throws IOException {
      super.reset();
      first = true;
      next = null;
    }
  }

  private static final class NoGaps extends FilteringTokenFilter {
    private final CharTermAttribute term = addAttribute(CharTermAttribute.class);

    NoGaps(TokenStream in) {
      super(in);
    }

    @Override
    protected boolean accept() {
      return !GAP.contentEquals(term);
    }
  }
}
