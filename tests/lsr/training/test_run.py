"""lsr/training/{prepare,run,tiny}.py and eval/learning.py: whole runs, small."""

import json
import os
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from transformers import TrainerCallback

from lsr.encoders.load import load_encoder
from lsr.eval.learning import encode, learn, measure
from lsr.training import tiny
from lsr.training.curves import write_curves
from lsr.training.guard import TrainingStopped
from lsr.training.prepare import prepare
from lsr.training.recipe import load_recipe
from lsr.training.run import _arguments, build, objective_of, open_run, train

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
    # The document that a query was made from has none of its words.
    assert judged == unmatched == set(queries)
    again = tiny.write_collection(tmp_path / "b")
    for file in ("corpus.jsonl", "queries.jsonl", "scores.tsv", "qrels/dev.tsv"):
        assert (again / file).read_bytes() == (folder / file).read_bytes()
    with pytest.raises(ValueError, match="`architecture` must be .* got 'gpt'"):
        tiny.write_model(tmp_path / "c", "gpt")


def test_a_resumed_run_logs_and_ends_as_one_that_never_stopped(tmp_path):
    recipe, prepared, model = start("splade-pp", tmp_path / "whole")
    train(recipe, prepared, model, tmp_path / "whole")

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 7:
                raise KeyboardInterrupt

    out = tmp_path / "killed"
    recipe, prepared, model = start("splade-pp", out)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, prepared, model, out, callbacks=[Kill()])
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
    assert json.loads((out / "environment.json").read_text())["torch"] == torch.__version__


def test_a_run_directory_is_of_one_recipe(tmp_path):
    start("splade-doc", tmp_path)
    with pytest.raises(ValueError, match="holds a run with training.seed = 0, not 1: take another"):
        start("splade-doc", tmp_path, training__seed="1")


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


def test_a_wrong_temperature_is_refused_before_the_first_step(tmp_path):
    recipe, prepared, model = start(
        "inference-free", tmp_path, objective__teacher_temperature="0.01"
    )
    with pytest.raises(
        TrainingStopped, match="teacher_temperature 0.01 the teachers give the best"
    ):
        train(recipe, prepared, model, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_rows_with_negatives_and_scores_are_computed_once(tmp_path, monkeypatch):
    recipe, prepared, _ = start("splade-pp", tmp_path)
    row = prepared.train.rows[0]
    assert len(row.negatives) == 4 and len(row.scores) == 5
    # The teacher that knows: the positive holds both concepts, negatives fewer or as many.
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
        settings |= {"data.held_out": "0.2", "data.negatives": wanted}
        recipe = load_recipe("splade-doc", tiny=True, settings=SHORT | settings)
        out = tmp_path / f"run{wanted}"
        open_run(recipe, out)
        prepared = prepare(recipe, out)
        assert prepared.train.n_negatives == found
        for row in prepared.train.rows:
            assert prepared.train.documents[row.negatives[0]].startswith("nothing")
    # Each column goes to its route, whoever the negatives are from.
    arguments = _arguments(recipe, build(recipe, prepared, out), 3, out)
    assert arguments.router_mapping["negative_3"] == "document"
    assert "negative_4" not in arguments.router_mapping


def test_a_large_collection_is_cut_to_the_judged_and_others(tmp_path):
    _, prepared, model = start("splade-doc", tmp_path)
    judged = {doc_id for qrel in prepared.held_out.qrels.values() for doc_id in qrel}
    few = encode(model, prepared.held_out, most_documents=len(judged) + 5)
    assert len(few.ids) == len(judged) + 5 and judged <= set(few.ids)
    assert len(encode(model, prepared.held_out, most_documents=3).ids) == len(judged)


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


def test_a_soup_is_the_mean_of_the_last_checkpoints(tmp_path):
    recipe, prepared, model = start("splade-doc", tmp_path, training__soup="2")
    path = train(recipe, prepared, model, tmp_path)
    folders = [tmp_path / "checkpoints" / f"checkpoint-{step}" for step in (8, 12)]
    models = [SparseEncoder(str(folder), device="cpu").state_dict() for folder in folders]
    mean = SparseEncoder(str(path), device="cpu").state_dict()
    for name, weights in mean.items():
        torch.testing.assert_close(weights, (models[0][name] + models[1][name]) / 2)


def test_regularisers_and_strengths_are_those_of_the_recipe(tmp_path):
    recipe, _, model = start("inference-free", tmp_path)
    objective = objective_of(recipe, model)
    assert list(objective.strengths) == ["document"]
    assert objective.strengths["document"].terms == recipe.objective.document_terms
    assert type(objective.regulariser("document")).__name__ == "Flops"
    for name, kind in (("l1", "L1"), ("df-flops", "DFFlops")):
        changed = load_recipe("inference-free", tiny=True, settings={"objective.regulariser": name})
        assert type(objective_of(changed, model).regulariser("document")).__name__ == kind
    recipe, _, model = start("splade-pp", tmp_path / "siamese")
    assert list(objective_of(recipe, model).strengths) == ["document", "query"]
    changed = load_recipe("splade-pp", tiny=True, settings={"objective.regulariser": "idf-flops"})
    with pytest.raises(ValueError, match="'idf-flops' needs queries of weights"):
        objective_of(changed, model)


@pytest.mark.slow
# How much nDCG@10 must rise, well below what was seen.
@pytest.mark.parametrize(
    ("name", "rise"),
    [
        ("splade-pp", 0.5),
        ("splade-doc", 0.3),
        ("inference-free", 0.5),
        ("echo-mistral", 0.5),
        ("bidirectional-llm", 0.5),
        ("pretrain-scratch", 0.3),
        ("cocondenser", 0.15),
    ],
)
def test_tiny_runs_learn_and_what_they_write_opens_everywhere(tmp_path, name, rise):
    recipe = load_recipe(name, tiny=True)
    learned = learn(recipe, tmp_path)
    assert learned.before["nDCG@10"] < 0.15
    assert learned.after["nDCG@10"] > learned.before["nDCG@10"] + rise
    assert learned.after["document terms"] < learned.before["document terms"]
    assert json.loads((tmp_path / "evaluation.json").read_text())["after"] == learned.after
    # The curve ends where nothing is pruned.
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
    """By torchrun on gloo: batches of 8 on two processes learn like batches of 16 on one."""
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
    # ln 16: each query chooses among the documents of both processes.
    assert steps[0]["infonce"] == pytest.approx(np.log(16), abs=0.3)
    assert (tmp_path / "two" / "model" / "modules.json").exists()


def test_nothing_is_drawn_of_no_history(tmp_path):
    write_curves([], tmp_path / "curves.svg")
    assert not (tmp_path / "curves.svg").exists()
