"""The engine on real test collections: rankings against brute force, and BM25 against bm25s."""

from pathlib import Path

import bm25s
import numpy as np
import pytest

from lsr.building.build import build_index
from lsr.corpus.corpus import open_corpus
from lsr.encoders.load import default_tokenizer
from lsr.encoders.tokens import count_terms
from lsr.eval.datasets import load_dataset
from lsr.eval.measures import evaluate
from lsr.eval.measuring import measure_index
from lsr.indexes import exact
from lsr.request import ask
from lsr.run import Run
from lsr.search import Searcher
from lsr.vectors import quantise

SHARED = Path(__file__).parents[3] / "shared" / "data"
# nDCG@10 of BM25 over stemmed words without stop words, from the collections' own table.
BM25 = {
    "cranfield": 0.360,
    "mlquestions": 0.426,
    "msmarco-dl19": 0.416,
    "nfcorpus": 0.329,
    "arguana": 0.487,
    "liveqa-med": 0.337,
}

pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.skipif(not SHARED.is_dir(), reason=f"no collections at {SHARED}"),
]


@pytest.fixture(scope="module", params=BM25)
def indexed(request, tmp_path_factory):
    """The name of a collection and its lexical index."""
    directory = tmp_path_factory.mktemp(request.param)
    build_index(open_corpus(SHARED / request.param), directory, "lexical")
    with Searcher(directory) as searcher:
        yield request.param, searcher


def test_ranking_is_that_of_brute_force_document_by_document(indexed):
    name, searcher = indexed
    texts = [query.text for query in load_dataset(SHARED / name).queries]
    ids = [document.id for document in open_corpus(SHARED / name)]
    # These are the engine's forward vectors; another test compares them with the encoder's.
    impacts = searcher.index.impacts(ids)
    request = ask("", mode="learned")
    batch = searcher.passes.encode(texts, request, 1)
    queries, _, factors = searcher.passes.impacts(batch, "learned", request)
    ranked = searcher.rank(texts, 1000, threads=2, mode="learned")
    for start in range(0, len(texts), 100):
        expected = exact.search(impacts, ids, queries[start : start + 100], 1000)
        chunk = slice(start, start + 100)
        for ours, theirs, factor in zip(ranked[chunk], expected, factors[chunk], strict=True):
            assert ours == [(doc_id, score * factor) for doc_id, score in theirs]


def test_forward_vectors_are_the_quantised_vectors_of_the_encoder(indexed):
    name, searcher = indexed
    documents = list(open_corpus(SHARED / name))[::7]
    vectors = searcher.encoder.encode_documents([document.content for document in documents])
    expected = quantise(vectors, searcher.manifest.impact_scale)
    assert (searcher.index.impacts([document.id for document in documents]) != expected).nnz == 0


def test_lexical_is_bm25_of_its_tokens(indexed):
    """bm25s on the same WordPieces scores equally, so they alone explain differences in BM25."""
    name, searcher = indexed
    dataset = load_dataset(SHARED / name)
    ours = _ndcg(searcher, dataset, {"mode": "learned"})
    documents = list(open_corpus(SHARED / name))
    tokenizer = default_tokenizer()
    bm25 = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    bm25.index(
        [_tokens(tokenizer, document.content) for document in documents], show_progress=False
    )
    rankings = {}
    for query in dataset.queries:
        tokens = [t for t in _tokens(tokenizer, query.text) if t in bm25.vocab_dict]
        if not tokens:
            continue
        scores = bm25.get_scores(tokens)
        best = np.argsort(-scores, kind="stable")[:101]
        rankings[query.id] = [(documents[i].id, float(scores[i])) for i in best if scores[i] > 0]
    theirs = evaluate(Run(rankings).without_self(), dataset.qrels, ["nDCG@10"]).means["nDCG@10"]
    print(f"{name}: ours {ours:.4f}, bm25s on WordPieces {theirs:.4f}, on words {BM25[name]}")
    assert ours == pytest.approx(theirs, abs=0.003)
    # Arguments are long and abstracts have many inflections, so stemming and stop words matter.
    assert ours == pytest.approx(BM25[name], abs=0.04 if name in ("arguana", "cranfield") else 0.01)


def test_words_are_bm25_as_others_have_it(indexed):
    name, searcher = indexed
    ours = _ndcg(searcher, load_dataset(SHARED / name), {"mode": "words", "words": {"title": 0}})
    print(f"{name}: ours {ours:.4f}, bm25s {BM25[name]}")
    # Its stemmer and its stop words are others: Snowball's. Ours are mostly better.
    assert -0.01 <= ours - BM25[name] <= 0.02


def _ndcg(searcher, dataset, settings):
    result = measure_index(searcher, dataset, ["nDCG@10"], settings=settings)
    return result.evaluation.means["nDCG@10"]


def _tokens(tokenizer, text):
    counts = count_terms(tokenizer, [text])
    return [str(term) for term in np.repeat(counts.indices, counts.data.astype(int))]
