import signal
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from lsr.training import scoring
from lsr.training.examples import Example, Examples
from lsr.training.scoring import Labelled, label_batch, score_examples
from lsr.training.teachers import FileTeacher, align, ensemble

N = 23


class Lengths:
    """A teacher that scores a pair by lengths, and counts the pairs."""

    def __init__(self, fingerprint="f" * 64):
        self.fingerprint = fingerprint
        self.n_pairs = 0

    def score(self, queries, documents):
        self.n_pairs += len(queries)
        pairs = zip(queries, documents, strict=True)
        return np.array([10 * len(query) + len(document) for query, document in pairs], np.float32)


def make_examples():
    documents = {f"d{number}": "x" * (number * 7 % 23) for number in range(N)}
    rows = [
        Example(f"q{i}", "q" * i, f"d{i}", (f"d{(i + 3) % N}", f"d{(i + 8) % N}")) for i in range(N)
    ]
    return Examples(rows, documents)


def expected(examples, combine=ensemble):
    scores = [
        [10.0 * len(row.query) + len(text) for text in examples.texts(row)] for row in examples.rows
    ]
    return combine([np.array(scores)])


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(scoring, "SHARD", 5)


@pytest.mark.parametrize("combine", [ensemble, align])
def test_scores_equal_those_computed_at_once(tmp_path, combine):
    examples = make_examples()
    scored = score_examples(examples, [Lengths()], tmp_path, combine=combine)
    np.testing.assert_allclose([row.scores for row in scored.rows], expected(examples, combine))
    assert [row._replace(scores=None) for row in scored.rows] == examples.rows
    assert scored.dataset()[3]["label"] == list(scored.rows[3].scores)


def test_several_teachers_are_combined(tmp_path):
    examples = make_examples()

    def combine(scores):
        assert [of.shape for of in scores] == [(N, 3), (N, 3)]
        return scores[0] + 2 * scores[1]

    one, other = Lengths(), Lengths("e" * 64)
    scored = score_examples(examples, [one, other], tmp_path, combine=combine)
    alone = expected(examples, lambda scores: scores[0])
    np.testing.assert_allclose([row.scores for row in scored.rows], 3 * alone)


def test_computed_once(tmp_path):
    examples, teacher = make_examples(), Lengths()
    first = score_examples(examples, [teacher], tmp_path)
    assert teacher.n_pairs == 3 * N
    told = []
    again = score_examples(
        examples, [teacher], tmp_path, progress=lambda *report: told.append(report)
    )
    assert teacher.n_pairs == 3 * N
    assert again.rows == first.rows
    assert told == [("scoring by Lengths", done, N) for done in (5, 10, 15, 20, 23)]


@pytest.mark.parametrize("changed", ["teacher", "document", "query", "negatives"])
def test_computed_again_for_another_teacher_or_other_texts(tmp_path, changed):
    examples, teacher = make_examples(), Lengths()
    score_examples(examples, [teacher], tmp_path)
    rows = list(examples.rows)
    if changed == "teacher":
        teacher.fingerprint = "e" * 64
    elif changed == "document":
        examples.documents["d22"] += "!"
    elif changed == "query":
        rows[-1] = rows[-1]._replace(query="other")
    else:
        rows[-1] = rows[-1]._replace(negatives=rows[-1].negatives[::-1])
    examples = Examples(rows, examples.documents)
    scored = score_examples(examples, [teacher], tmp_path)
    assert teacher.n_pairs == 2 * 3 * N
    np.testing.assert_allclose([row.scores for row in scored.rows], expected(examples))


def shards(cache):
    return sorted(cache.glob("Lengths-*/*.npz"))


@pytest.mark.parametrize("left", [0, 10, -1])
def test_truncated_shard_is_scored_again_with_a_note(tmp_path, left):
    examples = make_examples()
    score_examples(examples, [Lengths()], tmp_path)
    path = shards(tmp_path)[2]
    path.write_bytes(path.read_bytes()[:left])
    teacher = Lengths()
    with pytest.warns(UserWarning, match=r"000002\.npz is damaged; its rows are scored again: "):
        scored = score_examples(examples, [teacher], tmp_path)
    assert teacher.n_pairs == 3 * 5
    np.testing.assert_allclose([row.scores for row in scored.rows], expected(examples))
    score_examples(examples, [teacher], tmp_path)
    assert teacher.n_pairs == 3 * 5


def test_flipped_bit_and_foreign_shape_are_scored_again(tmp_path):
    examples = make_examples()
    score_examples(examples, [Lengths()], tmp_path)
    one, other, *_ = shards(tmp_path)
    content = bytearray(one.read_bytes())
    score = np.float32(expected(examples, lambda scores: scores[0])[3, 0])
    content[content.index(score.tobytes())] ^= 1
    one.write_bytes(content)
    with other.open("wb") as file:
        np.savez(file, scores=np.zeros((4, 3), np.float32))
    with pytest.warns(UserWarning) as warned:
        scored = score_examples(examples, [Lengths()], tmp_path)
    messages = [str(warning.message) for warning in warned]
    assert "Bad CRC-32" in messages[0]
    assert "expected float32 of shape (5, 3), got float32 (4, 3)" in messages[1]
    np.testing.assert_allclose([row.scores for row in scored.rows], expected(examples))


# It runs with the variables file (this one), folder, and when and at which call to be killed.
CHILD = """
import importlib.util, os, signal
from pathlib import Path
import numpy as np
from lsr.training import scoring
spec = importlib.util.spec_from_file_location("test_scoring", file)
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
scoring.SHARD = 5
calls = 0

def killing(function, moment, half):
    def wrapped(*args, **kwargs):
        global calls
        if moment == when:
            calls += 1
            if calls == at:
                half(*args)
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped

def half_written(file, **_):
    file.write(b"PK" * 40)
    file.flush()

nothing = lambda *_: None
tests.Lengths.score = killing(tests.Lengths.score, "score", nothing)
np.savez = killing(np.savez, "write", half_written)
Path.replace = killing(Path.replace, "rename", nothing)
scoring.score_examples(tests.make_examples(), [tests.Lengths()], folder)
"""


@pytest.mark.parametrize(("when", "at"), [("score", 3), ("write", 1), ("write", 5), ("rename", 2)])
def test_goes_on_after_a_kill(tmp_path, processes, when, at):
    settings = {"file": __file__, "folder": tmp_path, "when": when, "at": at}
    child = processes.Process(target=exec, args=(CHILD, settings))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert len(shards(tmp_path)) == at - 1
    examples, teacher = make_examples(), Lengths()
    scored = score_examples(examples, [teacher], tmp_path)
    assert teacher.n_pairs == 3 * (N - 5 * (at - 1))
    np.testing.assert_allclose([row.scores for row in scored.rows], expected(examples))
    assert not list(Path(tmp_path).glob("*/*.tmp"))


def test_of_two_at_once_one_computes(tmp_path):
    examples, teachers, results = make_examples(), [Lengths(), Lengths()], []

    def run(teacher):
        results.append(score_examples(examples, [teacher], tmp_path).rows)

    threads = [Thread(target=run, args=(teacher,)) for teacher in teachers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    assert sorted(teacher.n_pairs for teacher in teachers) == [0, 3 * N]


def test_labels_of_a_batch():
    rows = [
        {"query": "q", "document": "aaa", "negative_1": "a", "label": [0.0, 0.0]},
        {"query": "qq", "document": "a", "negative_1": "aa", "label": [0.0, 0.0]},
    ]
    labelled = label_batch(rows, [Lengths()], lambda scores: scores[0])
    assert labelled == [
        {"query": "q", "document": "aaa", "negative_1": "a", "label": [13.0, 11.0]},
        {"query": "qq", "document": "a", "negative_1": "aa", "label": [21.0, 22.0]},
    ]
    assert rows[0]["label"] == [0.0, 0.0]


def test_labels_of_batches_are_the_scores_of_all_rows(tmp_path):
    examples = make_examples()
    # Some positives have a passage removed.
    rows = [row._replace(removed="x" * (number % 3)) for number, row in enumerate(examples.rows)]
    examples = Examples(rows, examples.documents)
    pairs = {(row.query_id, doc_id) for row in rows for doc_id in (row.positive, *row.negatives)}
    lines = [f"{query}\t{doc_id}\t{len(query + doc_id)}\n" for query, doc_id in pairs]
    (tmp_path / "llm.tsv").write_text("".join(lines), encoding="utf-8")
    teachers = [Lengths(), FileTeacher(tmp_path / "llm.tsv", examples)]
    scored = score_examples(examples, teachers, tmp_path / "cache")
    batches = []

    class Collator:
        valid_label_columns = ("label",)

        def __call__(self, rows):
            return {"rows": rows}

    collator = Labelled(
        Collator(), lambda rows: batches.append(rows) or label_batch(rows, teachers)
    )
    assert collator.valid_label_columns == ("label",)
    dataset = examples.dataset()
    found = []
    for start in range(0, N, 4):
        found += collator([dataset[i] for i in range(start, min(N, start + 4))])["rows"]
    assert [len(batch) for batch in batches] == [4] * 5 + [3]
    assert found == list(scored.dataset())


def test_refuses(tmp_path):
    examples, teacher = make_examples(), Lengths()
    with pytest.raises(ValueError, match="`teachers` must hold at least one, got none"):
        score_examples(examples, [], tmp_path)
    uneven = Examples([*examples.rows[:-1], examples.rows[-1]._replace(negatives=())], {})
    with pytest.raises(ValueError, match="same number of negatives, got 0 to 2"):
        score_examples(uneven, [teacher], tmp_path)
    teacher.score = lambda queries, documents: np.where(
        np.array(queries) == "q" * 7, np.nan, 1.0
    ).astype(np.float32)
    with pytest.raises(ValueError, match="Lengths: a score of query 'qqqqqqq' is not finite"):
        score_examples(examples, [teacher], tmp_path)
    assert len(shards(tmp_path)) == 1  # nothing is written of the shard with the bad score
    with pytest.raises(ValueError, match="Lengths: a score of query 'qqqqqqq' is not finite"):
        label_batch(list(examples.dataset()), [teacher])
