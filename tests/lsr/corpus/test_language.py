"""lsr/corpus/language.py, and the language of an index."""

import json

import pytest

from lsr.building.build import build_index
from lsr.building.live import open_live
from lsr.corpus.corpus import open_corpus
from lsr.corpus.language import LanguageCounts

GERMAN = ["Die Häuser stehen am Ufer des Flusses.", "Der Hund schläft unter dem alten Tisch."]
ENGLISH = "The houses stand on the bank of the river."


def test_the_language_of_most_texts():
    counts = LanguageCounts()
    assert counts.most_common() is None
    for text in (*GERMAN, ENGLISH, "", "42 – 17"):
        counts.add(text)
    language, share = counts.most_common()
    assert (language, share) == ("de", pytest.approx(2 / 3))


@pytest.mark.parametrize(
    ("language", "texts", "found", "word", "notice"),
    [
        ("auto", [*GERMAN, ENGLISH], "de", "haus", "67% of the documents are in language 'de', by"),
        ("auto", ["42", "17"], "standard", "42", "no document holds a letter"),
        ("de", GERMAN, "de", "haus", None),
        ("standard", GERMAN, "standard", "häuser", None),
    ],
)
def test_words_are_analysed_by_it(tmp_path, language, texts, found, word, notice):
    lines = [json.dumps({"_id": str(i), "text": text}) for i, text in enumerate(texts)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    corpus = open_corpus(tmp_path / "corpus.jsonl")
    build = build_index(corpus, tmp_path / "index", "lexical", language=language)
    with open_live(tmp_path / "index") as live:
        assert live.manifest.language == found
        assert live.index.word_frequencies([word])[1].tolist() == [1]
    assert [text for text in build.notices if notice and notice in text] == list(build.notices)


def test_an_unknown_language_is_refused_before_the_corpus_is_read(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("not JSON")
    with pytest.raises(ValueError, match="`language` must be auto, or one of ar, .*, got 'german'"):
        build_index(open_corpus(tmp_path / "corpus.jsonl"), tmp_path / "index", language="german")
