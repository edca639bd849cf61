import gzip
from pathlib import Path

import numpy as np
import pytest

from lsr.lines import CorpusError
from lsr.run import Run, read_qrels

RUN = Run(
    {
        "q1": [("b", 1.0), ("c", 2.5), ("a", 1.0), ("Z", 1.0)],
        "q2": [("q2", 3.0), ("é", 0.1), ("z", 0.1), ("\U0001f600", 0.1), ("\uffee", 0.1)],
    }
)


def test_order_is_score_then_id() -> None:
    assert RUN["q1"] == [("c", 2.5), ("Z", 1.0), ("a", 1.0), ("b", 1.0)]
    tied = [doc_id for doc_id, _ in RUN["q2"][1:]]
    assert tied == sorted(tied, key=lambda doc_id: doc_id.encode())
    assert list(RUN) == ["q1", "q2"] and len(RUN) == 2
    assert Run({"q1": reversed(RUN["q1"]), "q2": RUN["q2"]}) == RUN


def test_run_rejects() -> None:
    with pytest.raises(ValueError, match="query q, document d: score must be finite: nan"):
        Run({"q": [("d", float("nan"))]})
    with pytest.raises(ValueError, match="query q: document d is ranked twice"):
        Run({"q": [("d", 1.0), ("e", 1.5), ("d", 2.0)]})


def test_truncate() -> None:
    assert RUN.truncate(2)["q1"] == [("c", 2.5), ("Z", 1.0)]
    assert RUN.truncate(100) == RUN
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        RUN.truncate(0)


def test_without_self() -> None:
    run = RUN.without_self()
    assert run["q1"] == RUN["q1"]
    assert run["q2"] == RUN["q2"][1:]


def test_trec_file_keeps_the_order_by_score_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    RUN.write_trec(path, "test")
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["q1", "Q0", "c", "1", "2.5", "test"]
    assert rows[1] == ["q1", "Q0", "Z", "2", "1.0", "test"]
    for query_id in RUN:
        mine = [row for row in rows if row[0] == query_id]
        assert [row[2] for row in mine] == [doc_id for doc_id, _ in RUN[query_id]]
        assert [row[3] for row in mine] == [str(rank + 1) for rank in range(len(mine))]
        scores = [float(row[4]) for row in mine]
        assert all(left > right for left, right in zip(scores, scores[1:], strict=False))


def test_trec_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    RUN.write_trec(path, "test")
    run = Run.read_trec(path)
    assert list(run) == list(RUN)
    for query_id in RUN:
        assert [doc_id for doc_id, _ in run[query_id]] == [doc_id for doc_id, _ in RUN[query_id]]
        expected = [score for _, score in RUN[query_id]]
        assert [score for _, score in run[query_id]] == pytest.approx(expected, rel=1e-6)
    distinct = Run({"q": [("a", 0.375), ("b", 2.0**-100), ("c", 0.0), ("d", -7.25)]})
    distinct.write_trec(path, "test")
    assert Run.read_trec(path) == distinct


def test_trec_eval_ranks_a_written_run_as_we_do(tmp_path: Path) -> None:
    import pytrec_eval

    # trec_eval holds scores as float32 and breaks ties by id descending; lsr breaks them ascending.
    tied = {f"d{number:03}": 12.3 + (number % 2) * 1e-12 for number in range(200)}
    path = tmp_path / "run.trec"
    Run({"q": tied.items(), "r": [("a", 1e300), ("b", 1e300), ("c", 0.0)]}).write_trec(path, "test")
    run = Run.read_trec(path)
    assert [doc_id for doc_id, _ in run["q"]] == sorted(tied, key=lambda d: (-tied[d], d))
    for query_id, ranking in run.items():
        for rank, (doc_id, _) in enumerate(ranking, 1):
            evaluator = pytrec_eval.RelevanceEvaluator({query_id: {doc_id: 1}}, {"recip_rank"})
            found = evaluator.evaluate({query_id: dict(ranking)})[query_id]["recip_rank"]
            assert found == pytest.approx(1 / rank)


def test_write_trec_rejects(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    with pytest.raises(ValueError, match="tag must be one word without white space, got 'a b'"):
        RUN.write_trec(path, "a b")
    with pytest.raises(ValueError, match="query id must be one word without white space, got ''"):
        Run({"": [("d", 1.0)]}).write_trec(path, "t")
    with pytest.raises(ValueError, match="doc id must be one word .*, got 'd e'"):
        Run({"q": [("d e", 1.0)]}).write_trec(path, "t")
    assert not path.exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"q Q0 d 2 1.0", "expected 6 columns, got 5: q Q0 d 2 1.0"),
        (b"q Q0 d 2 x t", "score must be a number, got 'x': q Q0"),
        (b"q Q0 d 2 1_0 t", "score must be a number, got '1_0'"),
        (b"q Q0 d 2 inf t", "score must be finite, got inf: q Q0"),
        (b"q Q0 c 2 1.0 t", "document 'c' is ranked twice for query 'q': q Q0"),
        (b"q Q0 \xff 2 1.0 t", r"invalid UTF-8 .*: q Q0 \\xff"),
    ],
)
def test_read_trec_rejects(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "run.trec"
    path.write_bytes(b"q Q0 c 1 2.0 t\n\n" + line + b"\n")
    with pytest.raises(ValueError, match=r"run\.trec:3: " + message):
        Run.read_trec(path)


def test_read_trec_rejects_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    RUN.write_trec(path, "test")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"run\.trec:9: expected 6 columns, got 5"):
        Run.read_trec(path)


def test_qrels_with_header_bom_and_blank_lines_also_gz(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfquery-id\tcorpus-id\tscore\r\nq1\ta\t1\r\n\r\nq1\tb\t0\nq2\ta\t-1\n"
    expected = {"q1": {"a": 1, "b": 0}, "q2": {"a": -1}}
    (tmp_path / "test.tsv").write_bytes(content)
    (tmp_path / "test.tsv.gz").write_bytes(gzip.compress(content))
    assert read_qrels(tmp_path / "test.tsv") == expected
    assert read_qrels(tmp_path / "test.tsv.gz") == expected


def test_header_of_qrels_is_the_first_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    path.write_text("q1\ta\t1\nquery-id\tcorpus-id\tscore\n")
    with pytest.raises(CorpusError, match=r"test\.tsv:2: score must be an integer, got 'score'"):
        read_qrels(path)


@pytest.mark.parametrize(
    "header",
    ["query-id\tcorpus-id\tscore", "qid\tdocid\trelevance", "Query_ID\tDoc_ID\tGrade", None],
)
def test_spellings_of_qrels(tmp_path: Path, header: str | None) -> None:
    """TREC's columns, spaces around ids, any line ends, byte order marks of joined files."""
    expected = {"q1": {"a": 1, "b": 0}, "q2": {"a": -1}}
    head = [header] if header else []
    for number, lines in enumerate(
        (["q1\ta\t1", "q1\tb\t0", "q2\ta\t-1"], ["q1 0 a 1", "q1\t0\tb\t0", "q2 Q0 a  -1"])
    ):
        for end in ("\n", "\r\n", "\r"):
            path = tmp_path / f"{number}.tsv"
            path.write_bytes(end.join([*head, *lines, ""]).encode())
            assert read_qrels(path) == expected
    path.write_text(" q1 \ta \t1 \n\t\t\n\ufeffq1\t b\t0\nq2\ta\t-1", encoding="utf-8-sig")
    assert read_qrels(path) == expected


def test_a_header_of_other_columns_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    for header in ("corpus-id\tquery-id\tscore", "q1\ta\thigh"):
        path.write_text(header + "\nq1\ta\t1\n")
        with pytest.raises(CorpusError, match=r"test\.tsv:1: score must be an integer"):
            read_qrels(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_is_no_part_of_a_query_id(tmp_path: Path, end: str) -> None:
    path = tmp_path / "run.trec"
    lines = ["\ufeffq1 Q0 a 1 2.5 x", "  ", "q1\tQ0\tb 2 1 x ", "\ufeffq2 Q0 a 1 7 x"]
    expected = {"q1": [("a", 2.5), ("b", 1.0)], "q2": [("a", 7.0)]}
    content = end.join(lines).encode()
    path.write_bytes(content)
    assert dict(Run.read_trec(path)) == expected
    packed = tmp_path / "run.trec.gz"
    packed.write_bytes(gzip.compress(content))
    assert dict(Run.read_trec(packed)) == expected
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        path.write_text("\n".join(lines), encoding=encoding)
        with pytest.raises(CorpusError, match="run.trec:1: this file is in UTF-16 or UTF-32"):
            Run.read_trec(path)
    path.write_bytes(packed.read_bytes())
    with pytest.raises(CorpusError, match=r"packed by gzip: its name must end with \.gz"):
        Run.read_trec(path)
    path.write_bytes(b"q1 Q0 a\0 1 2 x")
    with pytest.raises(CorpusError, match=r"run\.trec:1: a NUL byte \(byte 7 of the line\)"):
        Run.read_trec(path)


def trec_eval_order(scores: dict[str, float]) -> list[str]:
    """The order of a ranking in trec_eval's own code, from the reciprocal rank of each document."""
    import pytrec_eval

    def rank(doc_id: str) -> int:
        evaluator = pytrec_eval.RelevanceEvaluator({"q": {doc_id: 1}}, {"recip_rank"})
        return round(1 / evaluator.evaluate({"q": scores})["q"]["recip_rank"])

    return sorted(scores, key=rank)


def test_a_run_file_has_trec_evals_order(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    # 16777217 is not a float32; 1e-50 and 0 become the same one; 1e39 is above the largest.
    scores = {"a": 1.0, "b": 1.0, "é": 1.0, "Z": 1.0, "c": 16777217.0, "d": 16777216.0}
    scores |= {"e": 1e-50, "f": 0.0, "g": -0.0, "h": -1e-50, "i": 1e39, "j": 1e300, "k": -5.0}
    scores |= {"l": 3.4028234663852886e38, "m": -1e39, "n": -3.4028234663852886e38}
    path.write_text("".join(f"q Q0 {doc_id} 1 {score!r} x\n" for doc_id, score in scores.items()))
    run = Run.read_trec(path)
    order = [doc_id for doc_id, _ in run["q"]]
    assert order == trec_eval_order(scores)
    assert order == ["j", "i", "l", "d", "c", "é", "b", "a", "Z", *"hgfeknm"]
    # Truncating, removing the query's own document, and writing keep the order.
    assert [doc_id for doc_id, _ in run.truncate(6)["q"]] == order[:6]
    assert run.without_self()["q"] == run["q"]
    run.write_trec(path, "again")
    assert [doc_id for doc_id, _ in Run.read_trec(path)["q"]] == order


@pytest.mark.parametrize(
    "scores",
    [
        [0.0] * 50,
        [-0.0, 0.0] * 20,
        [12.3] * 1500,
        [1e300] * 50,
        [-1e300] * 50,
        [-1e38, *[-3.4028234e38] * 30, *[-1e300] * 50],
        [1e-45, 1e-44, 0.0, 1e-40, -1e-45, -1e-40, -1e-38, 1e-38, 1.1754944e-38] * 3,
        [1e-50, 1e-60, -1e-60, -1e-50, 0.0],
        [1.0, 1.0, 0.99999994, 0.9999999, 0.0, -1.0, -1.0],
        [5.0],
        [],
    ],
)
def test_written_scores_fall_strictly_for_every_tool(tmp_path: Path, scores: list[float]) -> None:
    run = Run({"q": [(f"d{number:04}", score) for number, score in enumerate(scores)]})
    path = tmp_path / "run.trec"
    run.write_trec(path, "t")
    printed = [line.split()[4] for line in path.read_text().splitlines()]
    held = np.array(printed, np.float32)
    assert np.isfinite(held).all() and (held[:-1] > held[1:]).all()
    # The printed scores are exact float32, and none is subnormal, which a processor may read as 0.
    assert [float(text) for text in printed] == held.astype(float).tolist()
    assert ((held == 0) | (np.abs(held) >= np.finfo(np.float32).smallest_normal)).all()
    order = [doc_id for doc_id, _ in run["q"]]
    if scores:
        assert [doc_id for doc_id, _ in Run.read_trec(path)["q"]] == order
    if 0 < len(scores) < 100:
        found = dict(zip(order, [float(text) for text in printed], strict=True))
        assert trec_eval_order(found) == order
