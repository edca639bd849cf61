"""lsr/search/notices.py: parts of a query or a document that were not read or are unknown."""

import json

from lsr.building.build import build_index
from lsr.corpus.corpus import open_corpus
from lsr.request import ask
from lsr.search import Searcher
from lsr.search.explanation import Explanation
from lsr.search.notices import of_document, of_query


def test_a_document_without_a_score_that_goes_on_is_said_to(tmp_path, short_sighted):
    words = " ".join(f"w{number}" for number in range(12))
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"_id": "long", "text": words}))
    build_index(open_corpus(tmp_path / "corpus.jsonl"), tmp_path / "short", short_sighted)
    with Searcher(tmp_path / "short") as opened:
        document = opened.index.documents(["long"])[0]
        said = of_document(opened, document, Explanation(0.0, 0.0, 0.0, 0.0, None, []))
        assert said == [
            f"the document has 12 tokens, of which encoder {short_sighted!r} reads the first 8: "
            "what follows them matches nothing"
        ]
        assert of_document(opened, document, Explanation(1.0, 1.0, 0.0, 1.0, None, [])) == []
        (notice,) = of_query(opened, ask(words), found=True)
        assert notice.startswith(f"the query has 12 tokens, of which encoder {short_sighted!r}")
