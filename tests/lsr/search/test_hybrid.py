"""Interpolation of both sides of an index, with feedback, compared with full score matrices."""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest

from lsr.building.build import build_index
from lsr.building.tuning import Tuned, write_tuning
from lsr.corpus.corpus import open_corpus
from lsr.encoders.load import default_tokenizer
from lsr.indexes.words import as_counts, as_vectors
from lsr.request import Interpolation, Words, ask
from lsr.search import Searcher
from lsr.search.feedback import heaviest, move_dense, move_sparse
from lsr.search.fusion import interpolate, reciprocal_rank_fusion
from lsr.search.passes import Batch

WORDS = (
    "heat flow wing plate layer pressure shock nose cone cylinder boundary theory speed drag lift "
    "mach body angle attack tunnel jet nozzle flutter beam shell panel stress buckling fatigue"
).split()
N = 300
QUERIES = ["heat flow", "wing flutter at mach speed", "shell", "zzz qqq", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An index of random words, BM25 and a dense model of random word vectors."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    folder = tmp_path_factory.mktemp("hybrid")
    torch.manual_seed(0)
    tokenizer = default_tokenizer().backend_tokenizer
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)]).save(
        str(folder / "dense")
    )
    rng = np.random.default_rng(0)
    with (folder / "corpus.jsonl").open("w") as file:
        for number in range(N):
            text = " ".join(rng.choice(WORDS, rng.integers(1, 12)))
            file.write(json.dumps({"_id": f"d{number}", "text": text, "part": number % 3}) + "\n")
    build_index(
        open_corpus(folder / "corpus.jsonl"),
        folder / "index",
        "lexical",
        dense=str(folder / "dense"),
    )
    return folder


@pytest.fixture(scope="module")
def searcher(folder):
    with Searcher(folder / "index") as opened:
        yield opened


@pytest.fixture(scope="module")
def truth(searcher, brute_force):
    return brute_force(searcher, [f"d{number}" for number in range(N)])


class Oracle:
    """Scores every document on every side, for one query."""

    def __init__(self, searcher, truth, settings, query):
        self.request = ask(query, **settings).resolved(dense=True)
        self.how = self.request.interpolation or Interpolation()
        self.sides = self.how.sides if self.request.mode == "hybrid" else (self.request.mode,)
        self.truth = truth
        self.passes = searcher.passes
        self.ids = [f"d{number}" for number in range(N)]
        self.impacts = searcher.index.impacts(self.ids)
        self.words = truth.counts(query)
        self.weights = self.impacts.astype(np.float32) / np.float32(searcher.manifest.impact_scale)
        self.vectors = self.passes.dense.vectors(self.ids).astype(np.float64)
        self.sparse = searcher.encoder.encode_queries([query])
        self.dense = searcher._live.dense_encoder.encode_queries([query])[0]
        self.allowed = [
            number
            for number in range(N)
            if not self.request.filter or number % 3 == self.request.filter.value
        ]

    def list(self, side, depth):
        if side != "dense":
            batch = Batch(self.sparse, np.ones(1), [self.words], None, 1)
            impacts = self.passes.impacts(batch, side, self.request)
            found, _ = self.truth.whole_numbers(impacts, self.request.words or Words())
            by_id = dict(zip(self.truth.ids, found, strict=True))
            scores = np.array([by_id[doc_id] for doc_id in self.ids]) * impacts.factors[0]
            hits = [(self.ids[n], float(scores[n])) for n in self.allowed if scores[n] > 0]
        else:
            scores = (self.vectors @ self.dense.astype(np.float64)).astype(np.float32)
            hits = [(self.ids[n], float(scores[n])) for n in self.allowed]
        self.all = getattr(self, "all", {}) | {
            side: dict(zip(self.ids, map(float, scores), strict=True))
        }
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:depth]

    def fused(self):
        lists = [self.list(side, self.how.depth) for side in self.sides]
        if self.how.method == "rrf":
            return reciprocal_rank_fusion(lists, self.how)
        return interpolate(*lists, self.how, tuple(self.all[side] for side in self.sides))

    def feed_back(self):
        how = self.request.feedback
        for _ in range(how.iterations):
            moved = {}
            for side in self.request.sides_moved:
                # Of two sides of Lucene the first is meant.
                own = "dense" if side == "dense" else self.sides[0]
                if self.request.stages in ("before", "both"):
                    hits = [(hit.doc_id, hit.score) for hit in self.fused()]
                else:
                    hits = self.list(how.first or own, 1000)
                    if self.request.mode == "hybrid":
                        hits = hits[: self.how.depth]
                rows = [self.ids.index(doc_id) for doc_id, _ in hits]
                good = rows[: how.documents]
                bad = rows[how.documents :][-how.negatives :] if how.negatives else []
                if side == "dense":
                    vectors = self.vectors.astype(np.float32)
                    new = move_dense(self.dense, vectors[good], vectors[bad], how)
                    norm = np.linalg.norm(new)
                    length = np.linalg.norm(self.dense)
                    moved[side] = new * np.float32(length / norm) if norm else new
                else:
                    scores = np.array([s for _, s in hits[: how.documents]], np.float64)
                    moved["sparse"] = move_sparse(
                        self.sparse, self.weights[good], scores, self.weights[bad], how
                    )
                    moved["words"] = self.moved_words(good, scores, bad)
            for side, vector in moved.items():
                setattr(self, side, vector)

    def moved_words(self, good, scores, bad):
        texts = self.passes._live.index.documents([self.ids[row] for row in good + bad])
        counts = [self.truth.counts(document.content) for document in texts]
        names, (query, documents) = as_vectors([self.words], counts)
        relevant, negatives = documents[: len(good)], documents[len(good) :]
        moved = move_sparse(query, relevant, scores, negatives, self.request.feedback)
        return as_counts(names, [moved])[0]

    def answer(self, k):
        request = self.request
        if request.feedback:
            self.feed_back()
        single = request.mode != "hybrid"
        if not single and not (request.feedback and request.stages in ("none", "before")):
            return [(hit.doc_id, hit.score) for hit in self.fused()][:k]
        if single or request.sides_moved[0] == "dense":
            return self.list(request.mode if single else "dense", k)
        return self.list(self.sides[0], k)


def check(searcher, truth, settings, k=20):
    found = searcher.rank(QUERIES, k, **settings)
    for query, ranking in zip(QUERIES, found, strict=True):
        expected = Oracle(searcher, truth, settings, query).answer(k)
        assert [doc_id for doc_id, _ in ranking] == [doc_id for doc_id, _ in expected], query
        assert [score for _, score in ranking] == pytest.approx(
            [score for _, score in expected], rel=1e-6, abs=1e-6
        )
    return found


@pytest.mark.parametrize("missing", ["exact", "zero", "minimum"])
@pytest.mark.parametrize("normalisation", ["min-max", "theoretical", "z-score", "none"])
@pytest.mark.parametrize("side", ["sparse", "learned", "words"])
def test_interpolation_equals_whole_matrices(searcher, truth, side, normalisation, missing):
    how = {"alpha": 0.3, "normalisation": normalisation, "missing": missing, "depth": 15}
    how["sides"] = (side, "dense")
    check(searcher, truth, {"mode": "hybrid", "interpolation": how})


def test_rrf_dense_and_default_settings(searcher, truth):
    check(searcher, truth, {"mode": "hybrid", "interpolation": {"method": "rrf", "depth": 30}})
    three = {"method": "rrf", "depth": 25, "sides": ("words", "learned", "dense")}
    check(searcher, truth, {"mode": "hybrid", "interpolation": three})
    pair = {"method": "rrf", "depth": 25, "sides": ("words", "learned"), "alpha": 0.3}
    check(searcher, truth, {"mode": "hybrid", "interpolation": pair})
    check(searcher, truth, {"mode": "dense"})
    check(searcher, truth, {"mode": "words"})
    check(searcher, truth, {"mode": "learned"})
    check(searcher, truth, {"mode": "sparse", "words": {"weight": 2.0, "title": 1.0}})
    check(searcher, truth, {"mode": "hybrid"})
    check(searcher, truth, {})


FEEDBACK = [
    {"documents": 3},
    {"method": "average", "documents": 5},
    {"documents": 4, "negatives": 2, "gamma": 0.3, "iterations": 2, "terms": 9},
]


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_feedback_of_one_side(searcher, truth, feedback):
    for mode in ("dense", "words", "learned", "sparse"):
        check(searcher, truth, {"mode": mode, "feedback": feedback})


def test_relevance_model_mass_and_ratio(searcher, truth):
    for mode in ("words", "learned", "sparse"):
        how = {"method": "relevance-model", "terms": 8}
        check(searcher, truth, {"mode": mode, "feedback": how})
        how = {"mass": 0.8, "ratio": 0.1, "terms": None}
        check(searcher, truth, {"mode": mode, "feedback": how})


@pytest.mark.parametrize(
    ("side", "stages"),
    [
        *product(["sparse", "dense"], ["none", "before", "after", "both"]),
        *product(["both"], ["after", "both"]),
    ],
)
@pytest.mark.parametrize(
    ("own", "feedback"), [*product(["learned"], FEEDBACK), ("sparse", FEEDBACK[2])]
)
def test_feedback_at_every_stage(searcher, truth, side, stages, own, feedback):
    settings = {
        "mode": "hybrid",
        "interpolation": {"depth": 25, "alpha": 0.6, "sides": (own, "dense")},
        "feedback": feedback | {"side": side, "interpolate": stages},
    }
    check(searcher, truth, settings)


def test_feedback_taken_from_the_other_side(searcher, truth):
    for side, first in (("dense", "sparse"), ("sparse", "dense"), ("dense", "words")):
        for stages in ("none", "after"):
            how = {"side": side, "first": first, "interpolate": stages}
            check(searcher, truth, {"mode": "hybrid", "feedback": how})


@pytest.mark.parametrize("stages", ["none", "after", "both"])
@pytest.mark.parametrize("side", ["sparse", "dense"])
def test_feedback_with_three_sides(searcher, truth, side, stages):
    how = {"method": "rrf", "depth": 25, "sides": ("learned", "words", "dense")}
    feedback = {"documents": 3, "side": side, "interpolate": stages}
    check(searcher, truth, {"mode": "hybrid", "interpolation": how, "feedback": feedback})


def test_feedback_without_a_dense_ranking(searcher, truth):
    how = {"method": "rrf", "depth": 25, "sides": ("words", "learned")}
    settings = {"mode": "hybrid", "interpolation": how, "feedback": {"documents": 3}}
    assert ask("heat", **settings).sides_moved == ("sparse",)
    found = check(searcher, truth, settings)
    assert found != searcher.rank(QUERIES, 20, mode="hybrid", interpolation=how)
    for side in ("dense", "both"):
        with pytest.raises(ValueError, match=f"feedback's `side` '{side}' moves the dense query"):
            searcher.search("heat", **(settings | {"feedback": {"side": side}}))


def test_filters_hold_on_both_sides(searcher, truth):
    for settings in ({"mode": "dense"}, {"mode": "hybrid"}, {"mode": "hybrid", "feedback": {}}):
        found = check(searcher, truth, settings | {"filter": "part = 1"}, 500)
        assert {int(doc_id[1:]) % 3 for hits in found for doc_id, _ in hits} == {1}


def test_a_first_pass_from_elsewhere(searcher, truth):
    elsewhere = [[("d7", 2.0), ("d3", 1.0)]] * len(QUERIES)
    settings = {"mode": "learned", "feedback": {"documents": 2}}
    found = searcher.rank(QUERIES, 10, first_pass=elsewhere, **settings)
    oracle = Oracle(searcher, truth, settings, QUERIES[0])
    oracle.sparse = move_sparse(
        oracle.sparse,
        oracle.weights[[7, 3]],
        np.array([2, 1], np.float32),
        oracle.weights[[]],
        oracle.request.feedback,
    )
    assert found[0] == oracle.list("learned", 10)
    with pytest.raises(ValueError, match="`first_pass` must hold a ranking for each query"):
        searcher.rank(QUERIES, 10, first_pass=elsewhere)


def test_paging_never_reorders(searcher):
    settings = {"mode": "hybrid", "interpolation": {"depth": 40}, "feedback": {}}
    (everything,) = searcher.rank(["heat flow"], 1000, **settings)
    assert 40 <= len(everything) <= 80
    for k in (1, 7, 40, 41):
        assert searcher.rank(["heat flow"], k, **settings) == [everything[:k]]


@pytest.mark.parametrize("normalisation", ["min-max", "theoretical", "z-score", "none"])
def test_scores_that_are_not_asked_for_change_nothing(searcher, monkeypatch, normalisation):
    rng = np.random.default_rng(6)
    asked = [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(40)]
    everything = searcher.passes.interpolated
    for alpha, condition in product((0.0, 0.4, 1.0), (None, "part = 1")):
        how = {"alpha": alpha, "normalisation": normalisation, "depth": 30}
        settings = {"mode": "hybrid", "interpolation": how, "filter": condition}
        pruned = searcher.rank(asked, 3, **settings)
        with monkeypatch.context() as patch:
            patch.setattr(searcher.passes, "interpolated", lambda *of: everything(*of[:2]))
            assert searcher.rank(asked, 3, **settings) == pruned


@pytest.mark.parametrize("n", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_batches_and_threads_change_nothing(searcher, n):
    rng = np.random.default_rng(5)
    asked = [" ".join(rng.choice(WORDS, 3)) for _ in range(n)]
    settings = {"mode": "hybrid", "feedback": {"side": "both"}}
    together = searcher.rank(asked, 5, threads=2, **settings)
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(lambda query: searcher.search(query, 5, **settings), asked))
    assert [[(h.document.id, h.score) for h in hits] for hits in alone] == together


def test_pruned_queries_and_their_rescoring(searcher):
    query = "wing flutter mach speed heat flow"
    whole = searcher.search(query, 10, mode="learned")
    cut = searcher.search(query, 10, mode="learned", mass=0.5)
    terms = heaviest(searcher.encoder.encode_queries([query]), None, 0.5, None)
    assert 0 < terms.nnz < 6
    kept = {
        searcher.encoder.vocabulary[term]: float(weight)
        for term, weight in zip(terms.indices, terms.data, strict=True)
    }
    assert cut == searcher.search(kept, 10)
    assert cut != whole
    # With all documents as candidates, the scores are those of the whole query.
    assert searcher.search(query, 10, mode="learned", mass=0.5, rescore=N) == [
        hit
        for hit in whole
        if hit in searcher.search(query, 10, mode="learned", mass=0.5, rescore=N)
    ]
    some = searcher.search(query, 10, mode="learned", mass=0.5, rescore=30)
    candidates = {hit.document.id for hit in searcher.search(query, 30, mode="learned", mass=0.5)}
    expected = [
        h for h in searcher.search(query, N, mode="learned") if h.document.id in candidates
    ][:10]
    assert some == expected
    told = searcher.approximations(query, mode="learned", mass=0.5, rescore=30)
    assert told == ["only the 30 best by the cut query are scored by all its terms"]
    assert searcher.approximations(query, mode="hybrid") == []


def test_explanations_of_both_sides_sum_to_the_score(searcher):
    for settings in (
        {"mode": "dense"},
        {"mode": "dense", "feedback": {}},
        {"mode": "sparse", "feedback": {"documents": 4}},
        {"mode": "hybrid"},
        {"mode": "hybrid", "feedback": {"side": "both"}},
        {"mode": "hybrid", "feedback": {"side": "sparse", "interpolate": "before"}},
        {"mode": "hybrid", "interpolation": {"method": "rrf"}},
    ):
        for hit in searcher.search("wing flutter", 8, **settings):
            why = searcher.explain("wing flutter", hit.document.id, **settings)
            assert why.score == hit.score == sum(part.share for part in why.sides)
            sparse = why.score_of("sparse")
            if sparse is None:
                assert why.terms == [] and why.sides == [("dense", why.score, why.score)]
            else:
                assert sum(term.contribution for term in why.terms) == sparse


def test_terms_of_feedback_are_marked(searcher):
    settings = {"mode": "learned", "feedback": {"documents": 5}}
    (hit,) = searcher.search("flutter", 1, **settings)
    why = searcher.explain("flutter", hit.document.id, **settings)
    # "flutter" is two word pieces; neither counts as a term from feedback.
    own = {searcher.encoder.vocabulary[term] for term in searcher.encoder.own_terms("flutter")}
    assert {term.term for term in why.terms if not term.from_feedback} <= own
    assert any(term.from_feedback for term in why.terms)


def test_a_document_of_neither_side_has_no_interpolated_score(searcher):
    settings = {"mode": "hybrid", "interpolation": {"depth": 1}}
    ranked = {doc_id for doc_id, _ in searcher.rank(["heat"], 1000, **settings)[0]}
    absent = next(f"d{number}" for number in range(N) if f"d{number}" not in ranked)
    with pytest.raises(KeyError, match="is not among the 1 first of any side"):
        searcher.explain("heat", absent, **settings)


def test_what_tuning_stored_is_used_without_settings(folder, searcher):
    stored = Tuned(
        words=Words(weight=3.5, k1=0.4),
        interpolation=Interpolation(alpha=0.9, normalisation="z-score", depth=50),
    )
    write_tuning(searcher.index.path.parent, stored)
    try:
        with Searcher(folder / "index") as tuned:
            explicit = {"mode": "hybrid", **stored.model_dump()}
            assert tuned.rank(QUERIES, 9, mode="hybrid") == searcher.rank(QUERIES, 9, **explicit)
            assert tuned.rank(QUERIES, 9, mode="hybrid") != searcher.rank(QUERIES, 9, mode="hybrid")
            assert tuned.rank(QUERIES, 9) == tuned.rank(QUERIES, 9, mode="hybrid")
            for mode in ("words", "sparse"):
                expected = searcher.rank(QUERIES, 9, mode=mode, words=stored.words.model_dump())
                assert tuned.rank(QUERIES, 9, mode=mode) == expected
                assert expected != searcher.rank(QUERIES, 9, mode=mode)
            # What a request says counts, whatever is stored.
            own = {"words": {}, "interpolation": {}}
            assert tuned.rank(QUERIES, 9, **own) == searcher.rank(QUERIES, 9)
        path = searcher.index.path.parent / "tuning.json"
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(ValueError, match="tuning.json: not what `lsr tune` writes, or trunc"):
            Searcher(folder / "index")
    finally:
        path.unlink()


def test_an_index_without_a_dense_side_says_so(folder):
    build_index(open_corpus(folder / "corpus.jsonl"), folder / "sparse", "lexical")
    with Searcher(folder / "sparse") as sparse:
        with pytest.raises(ValueError, match="no dense side: build it with `lsr index … --dense"):
            sparse.search("heat", mode="hybrid")
        # Two of Lucene's sides can be fused without one.
        how = {"method": "rrf", "sides": ("words", "learned")}
        (hit, *_) = sparse.search("heat", mode="hybrid", interpolation=how)
        assert hit.score == sum(
            1
            / (
                60
                + [of.document for of in sparse.search("heat", N, mode=side)].index(hit.document)
                + 1
            )
            for side in ("words", "learned")
        )
