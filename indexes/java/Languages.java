package lsr.lucene;

import static java.util.Map.entry;

import java.util.Map;
import org.apache.lucene.analysis.Analyzer;

/**
 * Lucene's analyzers by language: ISO 639 codes, and "standard" for words without stemming. Chinese
 * and Korean have none of their own in Anserini's jar: their words are pairs of characters.
 */
final class Languages {
  private Languages() {}

  // Names, so that a language whose analyzer a jar lacks is no loss to the others.
  private static final Map<String, String> ANALYZERS =
      Map.ofEntries(
          entry("ar", "ar.ArabicAnalyzer"),
          entry("bg", "bg.BulgarianAnalyzer"),
          entry("bn", "bn.BengaliAnalyzer"),
          entry("ca", "ca.CatalanAnalyzer"),
          entry("ckb", "ckb.SoraniAnalyzer"),
          entry("cs", "cz.CzechAnalyzer"),
          entry("da", "da.DanishAnalyzer"),
          entry("de", "de.GermanAnalyzer"),
          entry("el", "el.GreekAnalyzer"),
          entry("en", "en.EnglishAnalyzer"),
          entry("es", "es.SpanishAnalyzer"),
          entry("et", "et.EstonianAnalyzer"),
          entry("eu", "eu.BasqueAnalyzer"),
          entry("fa", "fa.PersianAnalyzer"),
          entry("fi", "fi.FinnishAnalyzer"),
          entry("fr", "fr.FrenchAnalyzer"),
          entry("ga", "ga.IrishAnalyzer"),
          entry("gl", "gl.GalicianAnalyzer"),
          entry("hi", "hi.HindiAnalyzer"),
          entry("hu", "hu.HungarianAnalyzer"),
          entry("hy", "hy.ArmenianAnalyzer"),
          entry("id", "id.IndonesianAnalyzer"),
          entry("it", "it.ItalianAnalyzer"),
          entry("ja", "ja.JapaneseAnalyzer"),
          entry("ko", "cjk.CJKAnalyzer"),
          entry("lt", "lt.LithuanianAnalyzer"),
          entry("lv", "lv.LatvianAnalyzer"),
          entry("ne", "ne.NepaliAnalyzer"),
          entry("nl", "nl.DutchAnalyzer"),
          entry("no", "no.NorwegianAnalyzer"),
          entry("pl", "morfologik.MorfologikAnalyzer"),
          entry("pt", "pt.PortugueseAnalyzer"),
          entry("pt-br", "br.BrazilianAnalyzer"),
          entry("ro", "ro.RomanianAnalyzer"),
          entry("ru", "ru.RussianAnalyzer"),
          entry("sr", "sr.SerbianAnalyzer"),
          entry("standard", "standard.StandardAnalyzer"),
          entry("sv", "sv.SwedishAnalyzer"),
          entry("ta", "ta.TamilAnalyzer"),
          entry("te", "te.TeluguAnalyzer"),
          entry("th", "th.ThaiAnalyzer"),
          entry("tr", "tr.TurkishAnalyzer"),
          entry("uk", "uk.UkrainianMorfologikAnalyzer"),
          entry("zh", "cjk.CJKAnalyzer"));

  static Analyzer analyzer(String language) throws ReflectiveOperationException {
    String name = "org.apache.lucene.analysis." + ANALYZERS.get(language);
    return (Analyzer) Class.forName(name).getConstructor().newInstance();
  }
}
