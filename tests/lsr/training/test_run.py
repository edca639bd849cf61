"""lsr/training/{prepare,run,tiny}.py and eval/learning.py: small complete runs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import TrainerCallback

from lsr.encoders.load import load_encoder
from lsr.eval.learning import encode, learn, measure
from lsr.training import tiny
from lsr.training.arguments import arguments
from lsr.training.curves import write_curves
from lsr.training.guard import Guard, TrainingStopped
from lsr.training.losses import infonce
from lsr.training.prepare import SCORED, prepare
from lsr.training.recipe import load_recipe
from lsr.training.regularisers import Flops
from lsr.training.run import build, objective_of, open_run, train
from lsr.training.teachers import FileTeacher

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # peft with transformers 5, and torch's TensorBoard writer.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]
SHORT = {"training.max_steps": "12", "training.save_steps": "4", "training.logging_steps": "2"}


def start(name, out, **settings):
    changed = {key.replace("__", "."): value for key, value in settings.items()}
    recipe = load_recipe(name, tiny=True, settings=SHORT | changed)
    open_run(recipe, out)
    prepared = prepare(recipe, out)
    return recipe, prepared, build(recipe, prepared, out)


class Kill(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def logged(out):
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if '"loss"' in line]


def test_the_collection_says_nothing_by_matching_words(tmp_path):
    folder = tiny.write_collection(tmp_path / "a")
    texts = {}
    for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        document = json.loads(line)
        texts[document["_id"]] = set(document["text"].split())
    queries = {}
    for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines():
        query = json.loads(line)
        queries[query["_id"]] = query["text"].split()
    concepts, fillers = tiny.words()
    concept_of = {word: number for number, of in enumerate(concepts) for word in of}
    assert len(concept_of) == tiny.CONCEPTS * tiny.SYNONYMS
    assert not set(fillers) & set(concept_of)
    judged = set()
    unmatched = set()
    for split in ("train", "dev"):
        for line in (folder / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]:
            query, document, _ = line.split("\t")
            judged.add(query)
            held = {concept_of[word] for word in texts[document] if word in concept_of}
            assert {concept_of[word] for word in queries[query]} <= held
            if not texts[document] & set(queries[query]):
                unmatched.add(query)
    # A query shares no word with the document that it was made from.
    assert judged == unmatched == set(queries)
    again = tiny.write_collection(tmp_path / "b")
    for file in ("corpus.jsonl", "queries.jsonl", "scores.tsv", "qrels/dev.tsv"):
        assert (again / file).read_bytes() == (folder / file).read_bytes()
    with pytest.raises(ValueError, match="`architecture` must be .* got 'gpt'"):
        tiny.write_model(tmp_path / "c", "gpt")


@pytest.mark.slow
def test_a_resumed_run_logs_and_ends_as_one_that_never_stopped(tmp_path):
    recipe, prepared, model = start("splade-pp", tmp_path / "whole")
    train(recipe, prepared, model, tmp_path / "whole")

    out = tmp_path / "killed"
    recipe, prepared, model = start("splade-pp", out)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, prepared, model, out, callbacks=[Kill(7)])
    assert not (out / "model").exists()
    recipe, prepared, model = start("splade-pp", out)
    train(recipe, prepared, model, out)

    def curve(folder):
        names = ("loss", "grad_norm", "document_terms", "document_weight", "query_weight")
        return [[entry["step"], *(entry[name] for name in names)] for entry in logged(folder)]

    assert curve(out) == curve(tmp_path / "whole")
    assert len(curve(out)) == 6
    weights = [
        (folder / "model" / "model.safetensors").read_bytes()
        for folder in (out, tmp_path / "whole")
    ]
    assert weights[0] == weights[1]
    assert (out / "curves.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert any((out / "tensorboard").iterdir())
    environment = json.loads((out / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["products"] == "float32"


@pytest.mark.slow
def test_a_frozen_base_is_passed_once_and_a_resumed_run_ends_the_same(tmp_path, monkeypatch):
    tiny.write_model(tmp_path / "bert", "bert")
    modules = [Transformer(str(tmp_path / "bert")), Pooling(64)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "dense"))
    settings = {
        "autoencoder__base": str(tmp_path / "dense"),
        "autoencoder__hidden_dim": "256",
        "autoencoder__k_aux": "16",
        "data__source": str(tiny.write_collection(tmp_path / "collection")),
        "data__pseudo_queries": "0",
        "data__negatives": "1",
        "data__margin": "0.0",
        "data__limit": "200",
        "training__batch_size": "16",  # a batch holds no query twice, and there are 38
    }
    passed, encode = [], SentenceTransformer.encode

    def counting(self, texts, **given):
        passed.extend(texts)
        return encode(self, texts, **given)

    monkeypatch.setattr(SentenceTransformer, "encode", counting)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    told = []
    recipe, prepared, model = start("csr", whole, **settings)
    forwards = []
    model[0].register_forward_hook(lambda *_: forwards.append(1))
    train(recipe, prepared, model, whole, progress=lambda *args: told.append(args))
    rows = prepared.train.rows
    texts = {text for row in rows for text in (row.query, *prepared.train.texts(row))}
    assert len(passed) == len(texts) and set(passed) == texts
    assert told == [("embedding by the frozen base", len(texts), len(texts))]
    # Only the passes over all texts, and the examples of the model card.
    assert len(forwards) < 20

    recipe, prepared, model = start("csr", killed, **settings)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, prepared, model, killed, callbacks=[Kill(7)])
    assert "forward" not in vars(model)
    passed.clear()
    recipe, prepared, model = start("csr", killed, **settings)
    train(recipe, prepared, model, killed)
    assert not passed
    parts = ("loss", "grad_norm", "reconstruction_loss_k", "reconstruction_loss_aux", "base_loss")
    curves = [
        [[entry["step"], *(entry[name] for name in parts)] for entry in logged(folder)]
        for folder in (killed, whole)
    ]
    assert curves[0] == curves[1] and len(curves[0]) == 6
    weights = "3_SparseAutoEncoder/model.safetensors"
    ends = [(folder / "model" / weights).read_bytes() for folder in (killed, whole)]
    assert ends[0] == ends[1]
    held_out = list(prepared.held_out.queries.values())
    for folder in (killed / "model", killed / "checkpoints" / "checkpoint-12"):
        described = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        names = [part["type"].rsplit(".", 1)[-1] for part in described]
        assert names == ["Transformer", "Pooling", "Normalize", "SparseAutoEncoder"]
        opened = SparseEncoder(str(folder), device="cpu").encode_query(held_out)
        torch.testing.assert_close(
            opened.to_dense(), model.eval().encode_query(held_out).to_dense()
        )


def test_a_run_directory_is_of_one_recipe(tmp_path):
    start("splade-doc", tmp_path)
    with pytest.raises(ValueError, match="holds a run with training.seed = 0, not 1: take another"):
        start("splade-doc", tmp_path, training__seed="1")


def test_other_words_about_a_recipe_do_not_make_another_run(tmp_path):
    recipe = load_recipe("splade-doc", tiny=True)
    open_run(recipe, tmp_path)
    for field in ("paper", "deviations", "expected"):
        open_run(replace(recipe, **{field: "in other words"}), tmp_path)


@pytest.mark.slow
def test_other_positives_of_a_query_are_no_negatives(tmp_path, monkeypatch):
    """In a complete run on the generated collection, whose queries have several positives."""
    recipe, prepared, model = start("splade-doc", tmp_path)
    left_out = []

    def watched(queries, documents, temperature, others=None):
        left_out.append(int(others.sum()))
        return infonce(queries, documents, temperature, others)

    monkeypatch.setattr("lsr.training.losses.infonce", watched)
    train(recipe, prepared, model, tmp_path)
    assert len(left_out) == 12
    assert sum(left_out) > 0


@pytest.mark.slow
def test_too_large_a_weight_is_stopped_with_the_reason(tmp_path):
    recipe, prepared, model = start(
        "splade-doc",
        tmp_path,
        objective__document_terms="0",
        objective__document_weight="1000.0",
        objective__ramp_steps="10",
        training__max_steps="400",
        training__save_steps="400",
    )
    with pytest.raises(TrainingStopped, match="document vectors have no term left.*λ is too large"):
        train(recipe, prepared, model, tmp_path)
    assert logged(tmp_path)[-1]["step"] < 200
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("asked", "waited"), [("30", 100), pytest.param("600", 600, marks=pytest.mark.slow)]
)
def test_the_guard_waits_until_the_target_can_be_reached(tmp_path, monkeypatch, asked, waited):
    settings = {"objective__ramp_steps": asked, "training__max_steps": "1"}
    recipe, prepared, model = start("splade-doc", tmp_path, **settings)
    guards = []

    class Watched(Guard):
        def on_step_end(self, *args, **kwargs):
            guards.append(self)

    monkeypatch.setattr("lsr.training.run.Guard", Watched)
    train(recipe, prepared, model, tmp_path)
    assert [guard.ramp_steps for guard in guards] == [waited]


LIVE = {
    "teachers__names": '["scores:generated", "bm25"]',
    "teachers__live": "true",
    "training__max_steps": "6",
    "training__save_steps": "2",
}


@pytest.mark.slow
def test_live_teachers_teach_what_cached_ones_do(tmp_path, monkeypatch):
    cached, live, killed = (tmp_path / name for name in ("cached", "live", "killed"))
    recipe, prepared, model = start("inference-free", cached, **LIVE | {"teachers__live": "false"})
    assert prepared.label is None
    train(recipe, prepared, model, cached)
    made, asked = [], []

    class Counting(FileTeacher):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

        def score(self, queries, documents):
            asked.append(len(queries))
            return super().score(queries, documents)

    monkeypatch.setattr("lsr.training.prepare.FileTeacher", Counting)
    recipe, prepared, model = start("inference-free", live, **LIVE)
    assert not (live / "scores").exists() and not asked
    assert all(row.scores is None for row in prepared.train.rows)
    train(recipe, prepared, model, live)
    # One sample for the guard, and one batch per step; the loader is one batch ahead.
    assert len(made) == 1
    assert asked[0] == SCORED * 4 and set(asked[1:]) == {32 * 4} and 6 <= len(asked) - 1 <= 7
    for one, other in zip(logged(live), logged(cached), strict=True):
        assert one["kl"] > 0
        for name in ("loss", "kl", "grad_norm"):
            assert one[name] == pytest.approx(other[name], rel=1e-5)

    recipe, prepared, model = start("inference-free", killed, **LIVE)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, prepared, model, killed, callbacks=[Kill(3)])
    monkeypatch.setattr("lsr.training.prepare.mine", None)
    asked.clear()
    recipe, prepared, model = start("inference-free", killed, **LIVE)
    train(recipe, prepared, model, killed)
    assert 4 <= len(asked) - 1 <= 5  # batches of steps 1 and 2 are not scored again
    assert [(entry["step"], entry["loss"]) for entry in logged(killed)] == [
        (entry["step"], entry["loss"]) for entry in logged(live)
    ]


@pytest.mark.parametrize("live", ["false", "true"])
def test_a_wrong_temperature_is_refused_before_the_first_step(tmp_path, live):
    recipe, prepared, model = start(
        *("inference-free", tmp_path),
        objective__teacher_temperature="0.01",
        teachers__live=live,
        data__limit="200",
    )
    assert (prepared.label is None) == (live == "false")
    with pytest.raises(
        TrainingStopped, match="teacher_temperature 0.01 the teachers give the best"
    ):
        train(recipe, prepared, model, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_rows_with_negatives_and_scores_are_computed_once(tmp_path, monkeypatch):
    recipe, prepared, _ = start("splade-pp", tmp_path, data__limit="200")
    row = prepared.train.rows[0]
    assert len(row.negatives) == 4 and len(row.scores) == 5
    # By the perfect teacher the positive scores highest: it holds both concepts of the query.
    assert row.scores[0] == max(row.scores)
    monkeypatch.setattr("lsr.training.prepare.mine", None)
    again = prepare(recipe, tmp_path)
    assert list(again.train.rows) == list(prepared.train.rows)
    assert len(prepared.sample()) == tiny.DOCUMENTS
    with (tmp_path / "rows.jsonl").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(ValueError, match="rows.jsonl:2: not a training row"):
        prepare(recipe, tmp_path)


def test_negatives_of_the_source_count_and_the_rest_is_mined(tmp_path):
    lines = [
        f"question {n} on heat\tanswer {n} on heat and flow\tnothing of {n}\n" for n in range(40)
    ]
    (tmp_path / "triples.tsv").write_text("".join(lines), encoding="utf-8")
    for wanted, found in (("0", 1), ("1", 1), ("3", 3)):
        settings = {"data.source": str(tmp_path / "triples.tsv"), "data.dev_split": ""}
        settings |= {"data.held_out": "0.2", "data.negatives": wanted, "model.base": "default"}
        recipe = load_recipe("splade-doc", tiny=True, settings=SHORT | settings)
        out = tmp_path / f"run{wanted}"
        open_run(recipe, out)
        prepared = prepare(recipe, out)
        assert prepared.train.n_negatives == found
        for row in prepared.train.rows:
            assert prepared.train.documents[row.negatives[0]].startswith("nothing")
    # Each column goes to its route, whether negatives were given or mined.
    made = arguments(recipe, build(recipe, prepared, out), 3, out)
    assert made.router_mapping["negative_3"] == "document"
    assert "negative_4" not in made.router_mapping


def test_a_large_collection_is_cut_to_the_judged_and_others(tmp_path):
    _, prepared, model = start("splade-doc", tmp_path)
    judged = {doc_id for qrel in prepared.held_out.qrels.values() for doc_id in qrel}
    few = encode(model, prepared.held_out, most_documents=len(judged) + 5)
    assert len(few.ids) == len(judged) + 5 and judged <= set(few.ids)
    assert len(encode(model, prepared.held_out, most_documents=3).ids) == len(judged)


@pytest.mark.slow
def test_held_out_pseudo_queries_are_not_word_for_word_in_their_documents(tmp_path):
    recipe = load_recipe("adapt", tiny=True, settings={"data.limit": "60"})
    prepared = prepare(recipe, tmp_path)
    held = prepared.held_out
    assert len(held.documents) == 60
    assert 3 < len(held.queries) < 40
    for query, qrel in held.qrels.items():
        (document,) = qrel
        assert held.queries[query] not in held.documents[document]
    assert not set(held.queries) & {row.query_id for row in prepared.train.rows}
    with pytest.raises(ValueError, match="recipe 'adapt': data.source is not set: give --data"):
        prepare(load_recipe("adapt"), tmp_path / "none")
    with pytest.raises(ValueError, match="a teacher must be dense, .* got 'sparse'"):
        changed = {"teachers.names": '["sparse"]', "data.limit": "60"}
        prepare(load_recipe("adapt", tiny=True, settings=changed), tmp_path / "teacher")


@pytest.mark.slow
def test_neighbours_of_a_corpus_know_what_was_cut_out_of_a_document(tmp_path, monkeypatch):
    settings = {
        "data.limit": "60",
        "data.neighbours": "64",
        "data.miners": '["neighbours"]',
        "objective.infonce": "0",
        "teachers.names": '["dense"]',
    }
    recipe = load_recipe("adapt", tiny=True, settings=settings)
    prepared = prepare(recipe, tmp_path)
    documents = prepared.train.documents
    assert [query.id for query in prepared.neighbours.queries] == [
        row.query_id for row in prepared.train.rows
    ]
    for row in prepared.train.rows[:20]:
        # Nothing is cut from the document, and the row's query is not compared with it.
        text = documents[row.positive]
        assert prepared.train.texts(row)[0] == text
        asked, labels = prepared.neighbours.compare([row.query], [text], most=5)
        assert asked[0] == row.query
        assert labels[0, 0] == -np.inf
        assert row.positive not in row.negatives
    assert len(prepared.scores()) >= 60
    # A resumed run reads the stored vectors.
    monkeypatch.setattr("lsr.training.teachers.DenseTeacher.encode_documents", None)
    again = prepare(recipe, tmp_path)
    assert list(again.train.rows) == list(prepared.train.rows)
    np.testing.assert_array_equal(again.neighbours.scores, prepared.neighbours.scores)
    for side in ("queries", "documents"):
        (path,) = tmp_path.glob(f"vectors/*/{side}.npy")
        whole = path.read_bytes()
        for size in (0, 50, len(whole) - 1):
            path.write_bytes(whole[:size])
            with pytest.raises(ValueError, match=f"{side}.npy: not vectors, remove it"):
                prepare(recipe, tmp_path)
        path.write_bytes(whole)


def test_labelled_pairs_of_short_texts_need_no_passages(tmp_path, caplog):
    """Short texts, and Chinese ones, which have no spaces between words."""
    pairs = [(f"问题{n}是什么？", f"答案{n}是多休息，多喝水。") for n in range(20)]
    pairs += [(f"question {n}", f"answer {n}") for n in range(20)]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join("\t".join(pair) + "\n" for pair in pairs), encoding="utf-8")
    settings = {"data.source": str(path), "data.margin": "0", "data.held_out": "0.2"}
    settings |= {"teachers.names": '["bm25"]', "teachers.weights": "[1.0]"}
    prepared = prepare(load_recipe("finetune", settings=settings), tmp_path / "run")
    queries = prepared.neighbours.queries
    assert {query.text for query in queries} <= {query for query, _ in pairs}
    assert not any(query.cut_out for query in queries)
    assert all(len(row.negatives) == 5 for row in prepared.train.rows)
    assert "none of 40 documents has a passage of 4 words" in caplog.text
    with pytest.raises(ValueError, match="pairs.jsonl: none of 40 documents gives a pseudo-query"):
        corpus = [json.dumps({"_id": str(n), "text": text}) for n, (_, text) in enumerate(pairs)]
        (tmp_path / "pairs.jsonl").write_text("\n".join(corpus), encoding="utf-8")
        changed = {"data.source": str(tmp_path / "pairs.jsonl")}
        prepare(load_recipe("adapt", settings=changed), tmp_path / "adapt")


@pytest.mark.slow
def test_neighbours_of_questions_are_passages_too(tmp_path):
    settings = {
        "data.neighbours": "64",
        "data.margin": "0.0",
        "teachers.names": '["bm25"]',
        "data.limit": "50",
    }
    recipe = load_recipe("finetune", tiny=True, settings=SHORT | settings)
    prepared = prepare(recipe, tmp_path)
    queries = prepared.neighbours.queries
    asked = {query.text for query in queries if not query.cut_out}
    assert asked == {row.query for row in prepared.train.rows}
    cut_out = [query for query in queries if query.cut_out]
    assert len(cut_out) > 50
    for query in cut_out:
        assert query.text in prepared.train.documents[query.document]
    assert train(recipe, prepared, build(recipe, prepared, tmp_path), tmp_path).exists()
    assert all(np.isfinite(entry["loss"]) for entry in logged(tmp_path))


@pytest.mark.slow
def test_a_soup_is_the_mean_of_the_last_checkpoints(tmp_path):
    recipe, prepared, model = start("splade-doc", tmp_path, training__soup="2")
    path = train(recipe, prepared, model, tmp_path)
    folders = [tmp_path / "checkpoints" / f"checkpoint-{step}" for step in (8, 12)]
    models = [SparseEncoder(str(folder), device="cpu").state_dict() for folder in folders]
    mean = SparseEncoder(str(path), device="cpu").state_dict()
    for name, weights in mean.items():
        torch.testing.assert_close(weights, (models[0][name] + models[1][name]) / 2)


@pytest.mark.slow
def test_regularisers_and_strengths_are_those_of_the_recipe(tmp_path):
    recipe, _, model = start("inference-free", tmp_path, data__limit="200")
    objective = objective_of(recipe, model)
    assert objective.sides == ["document"]
    penalty = objective.penalty("document")
    assert penalty.strength.terms == recipe.objective.document_terms
    assert type(penalty.regulariser).__name__ == "Flops"
    for name, kind in (("l1", "L1"), ("df-flops", "DFFlops")):
        changed = load_recipe("inference-free", tiny=True, settings={"objective.regulariser": name})
        assert type(objective_of(changed, model).penalty("document").regulariser).__name__ == kind
    # At α = 2 the IDF-aware penalty is plain FLOPS, to the last bit; at other values it is not.
    vectors = torch.rand(6, model.get_embedding_dimension())
    plain = Flops(threshold=5)(vectors)
    assert recipe.objective.regulariser == "idf-flops" and recipe.objective.alpha == 2
    for alpha in ("2.0", "1.0"):
        settings = {"objective.alpha": alpha, "objective.threshold": "5"}
        changed = load_recipe("inference-free", tiny=True, settings=settings)
        penalty = objective_of(changed, model).penalty("document").regulariser(vectors)
        assert bool(penalty == plain) == (alpha == "2.0")
    recipe, _, model = start("splade-pp", tmp_path / "siamese", data__limit="200")
    assert objective_of(recipe, model).sides == ["document", "query"]
    changed = load_recipe("splade-pp", tiny=True, settings={"objective.regulariser": "idf-flops"})
    with pytest.raises(ValueError, match="'idf-flops' needs queries of weights"):
        objective_of(changed, model)


@pytest.mark.slow
# The highest nDCG@10 before training, and the least rise, well below what was measured. Random
# latents (csr) and the grafted head (adapt) start from what their trunk knows.
@pytest.mark.parametrize(
    ("name", "start", "rise"),
    [
        ("splade-pp", 0.15, 0.5),
        ("splade-doc", 0.15, 0.3),
        ("inference-free", 0.15, 0.5),
        ("finetune", 0.15, 0.5),
        ("default", 0.15, 0.5),
        ("echo-mistral", 0.15, 0.5),
        ("bidirectional-llm", 0.15, 0.5),
        ("pretrain-scratch", 0.15, 0.3),
        ("cocondenser", 0.15, 0.15),
        ("csr", 0.25, 0.1),
        ("adapt", 0.5, 0.05),
    ],
)
def test_tiny_runs_learn_and_what_they_write_opens_everywhere(tmp_path, name, start, rise):
    recipe = load_recipe(name, tiny=True)
    learned = learn(recipe, tmp_path)
    assert learned.before["nDCG@10"] < start
    assert learned.after["nDCG@10"] > learned.before["nDCG@10"] + rise
    if name == "csr":
        assert learned.after["document terms"] == recipe.autoencoder.k
    elif name != "adapt":  # there the calibration has set it already
        assert learned.after["document terms"] < learned.before["document terms"]
    assert json.loads((tmp_path / "evaluation.json").read_text())["after"] == learned.after
    # The last point of the curve is without pruning.
    assert learned.curve[-1].evaluation.means["nDCG@10"] == learned.after["nDCG@10"]
    held_out = prepare(recipe, tmp_path).held_out
    encoder = load_encoder(str(learned.model), dtype=torch.float32)
    texts = list(islice(held_out.documents.values(), 20))
    ours = encoder.encode_documents(texts).toarray()
    plain = SparseEncoder(str(learned.model), device="cpu", trust_remote_code=True)
    theirs = plain.encode_document(texts, convert_to_sparse_tensor=False).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    opened = measure(encode(plain, held_out), held_out)
    assert opened["nDCG@10"] == pytest.approx(learned.after["nDCG@10"], abs=0.02)


@pytest.mark.slow
def test_two_processes_train_the_same_objective(tmp_path):
    """With torchrun on gloo: batches of 8 on two processes learn like batches of 16 on one."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "lsr.cli", "train", "splade-doc", "--tiny"),
        *("--out", str(tmp_path / "two"), "--set", "training.batch_size=8", "--json"),
        *("--set", "training.max_steps=20", "--set", "training.save_steps=20"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    steps = logged(tmp_path / "two")
    assert steps[-1]["step"] == 20
    # Chance is ln 16, since each query is compared with the documents of both processes.
    assert steps[0]["infonce"] == pytest.approx(np.log(16), abs=0.3)
    assert (tmp_path / "two" / "model" / "modules.json").exists()


def test_nothing_is_drawn_of_no_history(tmp_path):
    write_curves([], tmp_path / "curves.svg")
    assert not (tmp_path / "curves.svg").exists()
