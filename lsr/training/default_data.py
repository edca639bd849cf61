"""The collection that the default model is trained on: only text that published weights may use.

    python -m lsr.training.default_data COLLECTIONS OUT

writes a BEIR folder with a train and a dev split, the same for the same seed. COLLECTIONS has the
BEIR folders qa-train, liveqa-med and unsup-text. What is taken, and what is left:

- qa-train: Natural Questions and SQuAD (CC BY-SA), PubMedQA (MIT), FairytaleQA (Apache-2.0). Of the
  last, questions that only make sense beside their story (“Why did he run?”) are left out.
- liveqa-med: of the MedQuAD part (CC BY), a share of the questions, which are made from templates.
- unsup-text: of Wikipedia (CC BY-SA) and the C++ documentation (CC BY), titles and sentences as
  queries for the rest of the passage. Its other parts forbid commercial use, or do not say passage
  by passage whether they do.
- Python's standard library (PSF licence), the first sentence of a docstring as the query for the
  rest, from the interpreter that runs this: it differs a little between versions. The demo's
  questions are not read.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from lsr.corpus.corpus import beir_file, open_corpus
from lsr.corpus.records import read_queries
from lsr.run import read_qrels
from lsr.training.pseudo import SENTENCE

# Rows of a source at most, drawn at random; a source that is not here is not used.
ROWS = {
    "nq": 20_000,
    "squad": 20_000,
    "pubmedqa": 20_000,
    "fairytale": 3_000,
    "medquad": 5_000,
    "wiki": 8_000,
    "techdoc": 3_000,
    "pydoc": 1_500,
}
DEV = 1_000  # of all rows, drawn at random
# Of a passage's text: recipe `default` reads 128 tokens, and its teachers score what it reads.
WORDS = 90
FIRST_WORDS = re.compile(rf"\s*(?:\S+\s+){{0,{WORDS - 1}}}\S+")
# In a question, a sign that it is about a story that the reader has before them.
OF_A_STORY = re.compile(
    r"\b(he|she|they|it|him|her|them|his|their|its|the (man|woman|boy|girl|king|queen|prince|"
    r"princess|father|mother|son|daughter|old \w+|young \w+))\b",
    re.IGNORECASE,
)
SENTENCE_WORDS, SUMMARY_WORDS = range(8, 41), range(5, 41)


class _Pair(NamedTuple):
    source: str
    query: str
    document_id: str
    title: str
    text: str


def write_default_data(collections: Path, out: Path, *, seed: int = 0) -> dict[str, int]:
    """Write corpus.jsonl, of the first WORDS of each text, queries.jsonl and qrels/{train,dev}.tsv.

    Args:
        collections: has the folders named above.
        out: is made; files in it are replaced.
        seed: of what is drawn.

    Returns:
        Rows by source.

    Raises:
        FileNotFoundError: a file is missing.
        CorpusError: a line cannot be used (path:line).
    """
    by_source: dict[str, list[_Pair]] = {source: [] for source in ROWS}
    for pair in _pairs(collections, Random(seed)):
        by_source[pair.source].append(pair)
    random = Random(seed)
    kept = [
        pair
        for source, most in ROWS.items()
        for pair in random.sample(by_source[source], min(most, len(by_source[source])))
    ]
    random.shuffle(kept)
    (out / "qrels").mkdir(parents=True, exist_ok=True)
    documents = {pair.document_id: pair for pair in kept}
    with (out / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for key, pair in documents.items():
            first = FIRST_WORDS.match(pair.text)
            text = first[0] if first else ""
            file.write(json.dumps({"_id": key, "title": pair.title, "text": text}) + "\n")
    queries = [(f"{pair.source}-{number}", pair) for number, pair in enumerate(kept)]
    with (out / "queries.jsonl").open("w", encoding="utf-8") as file:
        for query_id, pair in queries:
            file.write(json.dumps({"_id": query_id, "text": pair.query}) + "\n")
    for split, rows in (("dev", queries[:DEV]), ("train", queries[DEV:])):
        with (out / "qrels" / f"{split}.tsv").open("w", encoding="utf-8") as file:
            file.write("query-id\tcorpus-id\tscore\n")
            for query_id, pair in rows:
                file.write(f"{query_id}\t{pair.document_id}\t1\n")
    return {source: sum(pair.source == source for pair in kept) for source in ROWS}


def _pairs(collections: Path, random: Random) -> Iterator[_Pair]:
    for folder in ("qa-train", "liveqa-med"):
        yield from _labelled(collections / folder)
    for document in open_corpus(beir_file(collections / "unsup-text", "corpus.jsonl")):
        source = document.id.split("-")[0]
        if source in ROWS:
            yield from _cut(source, document.id, document.title, document.text, random)
    for document in open_corpus("pydoc"):
        summary, *rest = SENTENCE.split(document.text.strip())
        if len(summary.split()) in SUMMARY_WORDS:
            yield _Pair("pydoc", summary, document.id, document.title, " ".join(rest))


def _labelled(folder: Path) -> Iterator[_Pair]:
    queries = {query.id: query.text for query in read_queries(beir_file(folder, "queries.jsonl"))}
    documents = {document.id: document for document in open_corpus(folder)}
    for query_id, judged in read_qrels(folder / "qrels" / "train.tsv").items():
        source = query_id.split("-")[0] if folder.name == "qa-train" else "medquad"
        if source == "fairytale" and OF_A_STORY.search(queries[query_id]):
            continue
        # One row a question, so that the others of its documents are not its negatives.
        positives = [key for key, grade in judged.items() if grade > 0]
        if source in ROWS and len(positives) == 1:
            document = documents[positives[0]]
            yield _Pair(source, queries[query_id], document.id, document.title, document.text)


def _cut(source: str, key: str, title: str, text: str, random: Random) -> Iterator[_Pair]:
    """A title or a sentence as the query for what is left of the passage, each half of the time."""
    if random.random() < 0.5:
        yield _Pair(source, title.replace(" - ", " "), key, "", text)
        return
    sentences = SENTENCE.split(text)
    usable = [n for n, s in enumerate(sentences) if len(s.split()) in SENTENCE_WORDS]
    if len(sentences) > 2 and usable:
        number = random.choice(usable)
        rest = " ".join(s for n, s in enumerate(sentences) if n != number)
        yield _Pair(source, sentences[number], key, title, rest)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python -m lsr.training.default_data COLLECTIONS OUT, got {sys.argv[1:]}")
    print(json.dumps(write_default_data(Path(sys.argv[1]), Path(sys.argv[2]))))
