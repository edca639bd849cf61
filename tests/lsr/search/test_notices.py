"""lsr/search/notices.py: parts of a query or a document that were not read or are unknown."""

import json

from lsr.building.build import build_index
from lsr.corpus.corpus import open_corpus
from lsr.request import ask
from lsr.search import Searcher
from lsr.search.explanation import Contribution, Explanation, SideScore
from lsr.search.notices import of_document, of_query


def test_a_document_without_a_score_that_goes_on_is_said_to(tmp_path, short_sighted):
    words = " ".join(f"w{number}" for number in range(12))
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"_id": "long", "text": words}))
    build_index(open_corpus(tmp_path / "corpus.jsonl"), tmp_path / "short", short_sighted)
    with Searcher(tmp_path / "short") as opened:
        document = opened.index.documents(["long"])[0]
        nothing = Explanation(0.0, [SideScore("learned", 0.0, 0.0)], [])
        said = of_document(opened, ask("x"), document, nothing)
        assert said == [
            f"the document has 12 tokens, of which encoder {short_sighted!r} reads the first 8: "
            "what follows them matches nothing"
        ]
        # No learned term has a part in the score, though a word has.
        word = Contribution("w11", 1.0, 1.0, 1.0, 1.0, True, True, field="words")
        sparse = Explanation(1.0, [SideScore("sparse", 1.0, 1.0)], [word])
        assert of_document(opened, ask("x"), document, sparse) == said
        term = word._replace(field="learned")
        assert of_document(opened, ask("x"), document, sparse._replace(terms=[term])) == []
        by_words = Explanation(1.0, [SideScore("words", 1.0, 1.0)], [word])
        assert of_document(opened, ask("x"), document, by_words) == []
        (notice,) = of_query(opened, ask(words), found=True)
        assert notice.startswith(f"the query has 12 tokens, of which encoder {short_sighted!r}")


def test_a_query_of_which_nothing_is_known_is_said_to_be_one(tmp_path):
    (tmp_path / "corpus.tsv").write_text("d1\tThe cat sat.\n")
    for encoder in ("bm25", "lexical"):
        build_index(open_corpus(tmp_path / "corpus.tsv"), tmp_path / encoder, encoder)
    with Searcher(tmp_path / "bm25") as opened:
        (notice,) = of_query(opened, ask("the"), found=False)
        assert notice.startswith(
            "the query holds no word that the analyzer of language 'en' keeps:"
        )
        # Its words are in no document: that they are not found says enough.
        assert of_query(opened, ask("zebra"), found=False) == []
    with Searcher(tmp_path / "lexical") as opened:
        (notice,) = of_query(opened, ask("\u200b", mode="sparse"), found=False)
        assert notice == (
            "the query holds no word that the analyzer of language 'en' keeps and no term that "
            "encoder 'lexical' knows: nothing can match it"
        )
        assert of_query(opened, ask("zebra"), found=False) == []
        (notice,) = of_query(opened, ask("\u200b", mode="learned"), found=False)
        assert notice == (
            "the query holds no term that encoder 'lexical' knows: nothing can match it"
        )
