"""lsr/training/default_data.py on small folders laid out like the real ones."""

import json

import pytest

from lsr.corpus.corpus import Corpus
from lsr.corpus.records import read_queries
from lsr.documents import Document
from lsr.run import read_qrels
from lsr.training import default_data
from lsr.training.default_data import ROWS, WORDS, write_default_data

PASSAGE = (
    "The first sentence of this passage has more than eight words in it. Short one. "
    "Here is another sentence of at least eight words to draw. And this one is also long enough "
    "to be drawn as a query."
)


def beir(folder, documents, queries, qrels):
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": k, "title": t, "text": text}) for k, (t, text) in documents.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    lines = [json.dumps({"_id": key, "text": text}) for key, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines))
    lines = [f"{query}\t{document}\t{grade}" for query, document, grade in qrels]
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines))


@pytest.fixture
def collections(tmp_path, monkeypatch):
    sources = ("nq", "squad", "pubmedqa", "fairytale")
    beir(
        tmp_path / "qa-train",
        {f"{source}-d0": (source.upper(), f"Text of {source}.") for source in sources},
        {f"{source}-q0": f"what is {source}" for source in sources}
        | {"fairytale-q1": "Why did he run?", "nq-q1": "judged as not relevant"},
        [(f"{source}-q0", f"{source}-d0", 1) for source in sources]
        + [("fairytale-q1", "fairytale-d0", 1), ("nq-q1", "nq-d0", 0)],
    )
    beir(
        tmp_path / "liveqa-med",
        {"A": ("Gout", "An answer."), "B": ("Gout", "Another."), "C": ("Tested", "Not for you.")},
        {"MQ0": "What is gout ?", "MQ1": "Who has gout ?", "TQ1": "a test question"},
        [("MQ0", "A", 1), ("MQ1", "A", 1), ("MQ1", "B", 1)],
    )
    prefixes = ("wiki", "techdoc", "cspaper", "biomed", "textbook", "news", "usenet")
    beir(
        tmp_path / "unsup-text",
        {
            f"{prefix}-{number}": (f"{prefix} {number} - Title", PASSAGE)
            for prefix in prefixes
            for number in range(20)
        },
        {},
        [],
    )
    python = [
        Document("os.a", "a(x)", "Return the thing that you asked for. More of it."),
        Document("os.b", "b(x)", "Short."),
        Document("os.c", "c(x)", ""),
    ]
    real = default_data.open_corpus
    monkeypatch.setattr(
        default_data,
        "open_corpus",
        lambda name: Corpus("pydoc", lambda _: iter(python)) if name == "pydoc" else real(name),
    )
    monkeypatch.setattr(default_data, "DEV", 5)
    return tmp_path


def test_only_what_may_be_used_is_taken(collections, tmp_path):
    out = tmp_path / "out"
    counts = write_default_data(collections, out)
    assert counts == {
        **dict.fromkeys(("nq", "squad", "pubmedqa", "fairytale", "medquad", "pydoc"), 1),
        "wiki": 20,
        "techdoc": 20,
    }
    lines = (out / "corpus.jsonl").read_text().splitlines()
    documents = {document["_id"]: document for document in map(json.loads, lines)}
    queries = {query.id: query.text for query in read_queries(out / "queries.jsonl")}
    assert {key.split("-")[0] for key in documents} == {
        *("nq", "squad", "pubmedqa", "fairytale", "wiki", "techdoc", "os.a", "A"),
    }
    # MedQuAD gives only questions with one answer, fairy tales only questions that need no context.
    texts = set(queries.values())
    assert "What is gout ?" in texts and "what is fairytale" in texts
    assert not texts & {"Who has gout ?", "a test question", "Why did he run?"}
    assert "judged as not relevant" not in texts
    assert documents["os.a"] == {"_id": "os.a", "title": "a(x)", "text": "More of it."}
    assert "Return the thing that you asked for." in texts
    train, dev = (read_qrels(out / "qrels" / f"{split}.tsv") for split in ("train", "dev"))
    assert len(dev) == 5 and len(train) == 41
    assert train.keys() | dev.keys() == queries.keys()
    kinds = set()
    for query_id, judged in (train | dev).items():
        ((document_id, grade),) = judged.items()
        document, query = documents[document_id], queries[query_id]
        assert grade == 1
        if document_id.startswith(("wiki", "techdoc")):
            # The query was removed from the document.
            assert query not in document["text"] and query != document["title"]
            kinds.add("title" if query.endswith("Title") else "sentence")
            assert len(query.split()) >= 8 or query == f"{document_id.replace('-', ' ')} Title"
    assert kinds == {"title", "sentence"}


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_texts_are_cut_after_their_first_words(collections, tmp_path, monkeypatch, extra):
    monkeypatch.setattr(default_data, "DEV", 1)
    words = [f"w{number}" for number in range(WORDS + extra)]
    beir(
        tmp_path / "other" / "qa-train",
        {"nq-d0": ("Long title " * WORDS, " \n".join(words) + "\n"), "nq-d1": ("Empty", "")},
        {"nq-q0": "long", "nq-q1": "empty"},
        [("nq-q0", "nq-d0", 1), ("nq-q1", "nq-d1", 1)],
    )
    for folder in ("liveqa-med", "unsup-text"):
        (tmp_path / "other" / folder).symlink_to(collections / folder)
    write_default_data(tmp_path / "other", tmp_path / "out")
    lines = (tmp_path / "out" / "corpus.jsonl").read_text().splitlines()
    documents = {document["_id"]: document for document in map(json.loads, lines)}
    # White space between words is unchanged; titles are not cut.
    assert documents["nq-d0"]["text"].rstrip() == " \n".join(words[:WORDS])
    assert documents["nq-d0"]["title"].split() == ["Long", "title"] * WORDS
    assert documents["nq-d1"]["text"] == ""


def test_the_same_seed_writes_the_same_and_rows_are_bounded(collections, tmp_path, monkeypatch):
    monkeypatch.setitem(ROWS, "wiki", 7)
    files = ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/dev.tsv")
    written = []
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        assert write_default_data(collections, tmp_path / name, seed=seed)["wiki"] == 7
        written.append([(tmp_path / name / file).read_bytes() for file in files])
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="qa-train"):
        write_default_data(tmp_path, tmp_path / "out")
