package lsr.lucene;

import java.util.Map;
import java.util.TreeMap;
import java.util.function.Supplier;
import org.apache.lucene.analysis.Analyzer;
import org.apache.lucene.analysis.ar.ArabicAnalyzer;
import org.apache.lucene.analysis.bg.BulgarianAnalyzer;
import org.apache.lucene.analysis.bn.BengaliAnalyzer;
import org.apache.lucene.analysis.br.BrazilianAnalyzer;
import org.apache.lucene.analysis.ca.CatalanAnalyzer;
import org.apache.lucene.analysis.cjk.CJKAnalyzer;
import org.apache.lucene.analysis.ckb.SoraniAnalyzer;
import org.apache.lucene.analysis.cz.CzechAnalyzer;
import org.apache.lucene.analysis.da.DanishAnalyzer;
import org.apache.lucene.analysis.de.GermanAnalyzer;
import org.apache.lucene.analysis.el.GreekAnalyzer;
import org.apache.lucene.analysis.en.EnglishAnalyzer;
import org.apache.lucene.analysis.es.SpanishAnalyzer;
import org.apache.lucene.analysis.et.EstonianAnalyzer;
import org.apache.lucene.analysis.eu.BasqueAnalyzer;
import org.apache.lucene.analysis.fa.PersianAnalyzer;
import org.apache.lucene.analysis.fi.FinnishAnalyzer;
import org.apache.lucene.analysis.fr.FrenchAnalyzer;
import org.apache.lucene.analysis.ga.IrishAnalyzer;
import org.apache.lucene.analysis.gl.GalicianAnalyzer;
import org.apache.lucene.analysis.hi.HindiAnalyzer;
import org.apache.lucene.analysis.hu.HungarianAnalyzer;
import org.apache.lucene.analysis.hy.ArmenianAnalyzer;
import org.apache.lucene.analysis.id.IndonesianAnalyzer;
import org.apache.lucene.analysis.it.ItalianAnalyzer;
import org.apache.lucene.analysis.ja.JapaneseAnalyzer;
import org.apache.lucene.analysis.lt.LithuanianAnalyzer;
import org.apache.lucene.analysis.lv.LatvianAnalyzer;
import org.apache.lucene.analysis.morfologik.MorfologikAnalyzer;
import org.apache.lucene.analysis.ne.NepaliAnalyzer;
import org.apache.lucene.analysis.nl.DutchAnalyzer;
import org.apache.lucene.analysis.no.NorwegianAnalyzer;
import org.apache.lucene.analysis.pt.PortugueseAnalyzer;
import org.apache.lucene.analysis.ro.RomanianAnalyzer;
import org.apache.lucene.analysis.ru.RussianAnalyzer;
import org.apache.lucene.analysis.sr.SerbianAnalyzer;
import org.apache.lucene.analysis.standard.StandardAnalyzer;
import org.apache.lucene.analysis.sv.SwedishAnalyzer;
import org.apache.lucene.analysis.ta.TamilAnalyzer;
import org.apache.lucene.analysis.te.TeluguAnalyzer;
import org.apache.lucene.analysis.th.ThaiAnalyzer;
import org.apache.lucene.analysis.tr.TurkishAnalyzer;
import org.apache.lucene.analysis.uk.UkrainianMorfologikAnalyzer;

/** Lucene's analyzers by language: ISO 639 codes, and "standard" for words without stemming. */
final class Languages {
  private Languages() {}

  private static final Map<String, Supplier<Analyzer>> ANALYZERS = new TreeMap<>();

  static {
    ANALYZERS.put("ar", ArabicAnalyzer::new);
    ANALYZERS.put("bg", BulgarianAnalyzer::new);
    ANALYZERS.put("bn", BengaliAnalyzer::new);
    ANALYZERS.put("ca", CatalanAnalyzer::new);
    ANALYZERS.put("ckb", SoraniAnalyzer::new);
    ANALYZERS.put("cs", CzechAnalyzer::new);
    ANALYZERS.put("da", DanishAnalyzer::new);
    ANALYZERS.put("de", GermanAnalyzer::new);
    ANALYZERS.put("el", GreekAnalyzer::new);
    ANALYZERS.put("en", EnglishAnalyzer::new);
    ANALYZERS.put("es", SpanishAnalyzer::new);
    ANALYZERS.put("et", EstonianAnalyzer::new);
    ANALYZERS.put("eu", BasqueAnalyzer::new);
    ANALYZERS.put("fa", PersianAnalyzer::new);
    ANALYZERS.put("fi", FinnishAnalyzer::new);
    ANALYZERS.put("fr", FrenchAnalyzer::new);
    ANALYZERS.put("ga", IrishAnalyzer::new);
    ANALYZERS.put("gl", GalicianAnalyzer::new);
    ANALYZERS.put("hi", HindiAnalyzer::new);
    ANALYZERS.put("hu", HungarianAnalyzer::new);
    ANALYZERS.put("hy", ArmenianAnalyzer::new);
    ANALYZERS.put("id", IndonesianAnalyzer::new);
    ANALYZERS.put("it", ItalianAnalyzer::new);
    ANALYZERS.put("ja", JapaneseAnalyzer::new);
    ANALYZERS.put("ko", CJKAnalyzer::new);
    ANALYZERS.put("lt", LithuanianAnalyzer::new);
    ANALYZERS.put("lv", LatvianAnalyzer::new);
    ANALYZERS.put("ne", NepaliAnalyzer::new);
    ANALYZERS.put("nl", DutchAnalyzer::new);
    ANALYZERS.put("no", NorwegianAnalyzer::new);
    ANALYZERS.put("pl", MorfologikAnalyzer::new);
    ANALYZERS.put("pt", PortugueseAnalyzer::new);
    ANALYZERS.put("pt-br", BrazilianAnalyzer::new);
    ANALYZERS.put("ro", RomanianAnalyzer::new);
    ANALYZERS.put("ru", RussianAnalyzer::new);
    ANALYZERS.put("sr", SerbianAnalyzer::new);
    ANALYZERS.put("standard", StandardAnalyzer::new);
    ANALYZERS.put("sv", SwedishAnalyzer::new);
    ANALYZERS.put("ta", TamilAnalyzer::new);
    ANALYZERS.put("te", TeluguAnalyzer::new);
    ANALYZERS.put("th", ThaiAnalyzer::new);
    ANALYZERS.put("tr", TurkishAnalyzer::new);
    ANALYZERS.put("uk", UkrainianMorfologikAnalyzer::new);
    // Chinese and Korean have no analyzer of their own in Anserini's jar: pairs of characters.
    ANALYZERS.put("zh", CJKAnalyzer::new);
  }

  static Analyzer analyzer(String language) {
    return ANALYZERS.get(language).get();
  }
}
