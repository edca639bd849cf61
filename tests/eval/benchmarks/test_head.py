"""eval/benchmarks/head.py and its parts, on a small batch."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
import torch

from lsr.eval.benchmarks import head as benchmark
from lsr.eval.benchmarks import head_baselines as baselines
from lsr.eval.benchmarks import head_measurement as measurement
from lsr.eval.benchmarks import head_roofline as roofline
from lsr.eval.benchmarks.head_baselines import SHAPES, SIDES, Shape, make_case
from lsr.eval.benchmarks.head_measurement import Measurement

SMALL = Shape(3, 12, 4, 16, 500)
FLOORS = set(baselines.FLOORS)

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's sides")


@pytest.fixture
def quick(monkeypatch):
    """Make measurements short, and in this process."""
    monkeypatch.setattr(measurement, "SECONDS", 0)
    monkeypatch.setattr(measurement, "REPEATS", 1)
    monkeypatch.setattr(measurement, "COPIED_BYTES", 2**20)
    for module in (measurement, benchmark):
        monkeypatch.setattr(module, "in_fresh_process", lambda function, *args: function(*args))
    monkeypatch.setitem(SHAPES, "cpu", SMALL)
    monkeypatch.setitem(SHAPES, "A", SMALL._replace(texts=7))


@pytest.fixture
def uncompiled(monkeypatch):
    """torch.compile takes too long for most tests."""
    side = SIDES["compiled"]._replace(compute=baselines.max_first)
    monkeypatch.setitem(SIDES, "compiled", side)


def test_the_mask_has_the_lengths_of_the_shape():
    for shape in (SMALL, SHAPES["cpu"], SMALL._replace(texts=1), SHAPES["A-real"]):
        shape = shape._replace(size=2, terms=50)
        case = make_case(shape, 0.5, torch.float32, "cpu")
        assert torch.equal(case.mask.sum(1), shape.lengths())
        assert int(case.mask.sum()) == shape.tokens
        assert shape.lengths()[0] == shape.shortest
        assert shape.texts == 1 or shape.lengths()[-1] == shape.longest


def test_shape_a_real_has_80_tokens_on_average():
    assert SHAPES["A-real"].tokens / SHAPES["A-real"].texts == pytest.approx(80, abs=1)
    assert SHAPES["A-real"].rows == SHAPES["A"].tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_sides_compute_the_same(monkeypatch, uncompiled, dtype):
    monkeypatch.setattr(baselines, "CHUNK", 64)
    case = make_case(SMALL, 0.1, dtype, "cpu")
    expected = baselines.eager(case)
    assert 0.05 < (expected > 0).double().mean() < 0.2
    for name in set(SIDES) - FLOORS:
        torch.testing.assert_close(SIDES[name].compute(case), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif("compiled" in measurement.unavailable("cpu"), reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's compiler itself
def test_the_compiled_side_computes_the_same_and_is_compiled_once():
    case = make_case(SMALL, 0.1, torch.float32, "cpu")
    torch._dynamo.utils.counters.clear()
    for _ in range(3):
        found = baselines.compiled(case)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(found, baselines.eager(case), rtol=1e-5, atol=1e-6)


def test_a_floor_is_the_bare_product_into_logits_that_lie_ready():
    case = make_case(SMALL, 0.1, torch.float32, "cpu")
    for packed, rows in ((True, case.hidden[case.mask]), (False, case.hidden.flatten(0, 1))):
        bare = baselines.bare(case, packed)
        found = baselines.matrix_product(bare)
        assert found.data_ptr() == bare.logits.data_ptr()
        torch.testing.assert_close(found, rows @ case.weight.T)


def test_traffic_and_memory_by_hand():
    # 3 texts of 4, 8 and 12 tokens: 24 of 36 are real.
    weights, states, packed, logits, pooled = 500 * 17, 36 * 16, 24 * 16, 36 * 500, 3 * 500
    expected = {
        "eager": 4 * (states + weights + 8 * logits + pooled),
        "lsr": 4 * (3 * packed + weights + pooled),
        "matrix product": 4 * (packed + weights + 24 * 500),
        "matrix product, padded": 4 * (states + weights + logits),
    }
    for name, count in expected.items():
        assert baselines.traffic(name, SMALL, 4, "cpu") == count
    assert baselines.traffic("lsr", SMALL, 2, "cuda") == expected["lsr"] / 2 + 2 * pooled
    tiled = 2 * (2 * states + weights + 2 * logits) + 10 * pooled
    wide = SMALL._replace(terms=500 + baselines.sparton.tile_terms(SMALL.rows))
    assert baselines.traffic("sparton", SMALL, 2, "cuda") == tiled - 2 * states
    more = baselines.traffic("sparton", wide, 2, "cuda")
    assert more - tiled == (wide.terms - 500) * (2 * 17 + 2 * 2 * 36 + 10 * 3)
    assert baselines.least_memory("eager", SMALL, 4, False) == 4 * (states + weights + 2 * logits)
    assert baselines.least_memory("lsr", SMALL, 2, True) == 2 * 2 * (states + weights)


@linux
@pytest.mark.parametrize("backward", [False, True])
def test_a_measurement_counts_memory(monkeypatch, quick, backward):
    def wasteful(case):
        torch.ones(50 * 2**18).sum()  # 50 MiB
        return baselines.eager(case)

    monkeypatch.setitem(SIDES, "wasteful", SIDES["eager"]._replace(compute=wasteful))
    measured = measurement.measure("wasteful", SMALL, 0.1, "float32", "cpu", backward)
    assert 45 < measured.extra_mib < 80
    assert measured.milliseconds > 0


@linux
def test_a_measurement_out_of_memory_is_none(monkeypatch, quick):
    def greedy(case):
        return torch.empty(2**60)

    def broken(case):
        raise RuntimeError("something else")

    for name, compute in (("greedy", greedy), ("broken", broken)):
        monkeypatch.setitem(SIDES, name, SIDES["eager"]._replace(compute=compute))
    assert measurement.measure("greedy", SMALL, 0.1, "float32", "cpu", False) is None
    with pytest.raises(RuntimeError, match="something else"):
        measurement.measure("broken", SMALL, 0.1, "float32", "cpu", False)


@linux
def test_a_side_that_would_be_killed_for_its_memory_is_not_run(monkeypatch, quick, capsys):
    huge = Shape(2**20, 512, 512, 768, 250_002)
    monkeypatch.setattr(measurement, "measure", lambda *args: pytest.fail("it ran"))
    assert measurement.attempt("lsr", huge, 0.1, "float32", "cpu", False) is None
    assert re.match(r"lsr: out of memory: \d+ MiB needed, \d+ available", capsys.readouterr().err)


@linux
def test_a_fresh_process_measures():
    shape = SMALL._replace(terms=60)
    measured = measurement.attempt("lsr", shape, 0.1, "float32", "cpu", False)
    assert isinstance(measured, Measurement)


def test_torch_compile_is_left_out_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no 'no-such-compiler', which CXX" in measurement.unavailable("cpu")["compiled"]
    monkeypatch.setenv("CXX", sys.executable)
    assert measurement.unavailable("cpu") == {}


def test_the_benchmark_needs_no_triton():
    code = "import sys; sys.modules['triton'] = None; import lsr.eval.benchmarks.head"
    subprocess.run([sys.executable, "-c", code], check=True)


def measured_by(monkeypatch, times):
    """Run two rounds of passes with the given (forward, backward) milliseconds of each side."""

    def attempt(side, shape, active, dtype_name, device, backward):
        ms = times[side][backward]
        return None if ms is None else Measurement(ms, 10.0 * ms)

    monkeypatch.setattr(benchmark, "attempt", attempt)
    monkeypatch.setattr(benchmark, "SIDES", dict.fromkeys(times))
    return benchmark.compare(SMALL, [0.1], "float32", "cpu", 2)


def test_shares(monkeypatch):
    monkeypatch.setenv("CXX", sys.executable)
    forward, both = measured_by(
        monkeypatch,
        {
            "eager": (8.0, 30.0),
            "max first": (5.0, None),
            "lsr": (4.0, 6.0),
            "matrix product": (2.0, None),
            "matrix product, padded": (3.0, None),
        },
    )
    assert (forward.active, both.active) == (None, 0.1)
    row = forward.sides["lsr"]
    assert row.rounds_ms == [4.0, 4.0]
    assert (row.times_faster_than_eager, row.share_of_eager_memory) == (2.0, 0.5)
    assert (row.share_of_floor, row.share_of_padded_floor) == (0.5, 0.75)
    assert (row.backward_ms, row.gflops) == (None, pytest.approx(2e-6 * 24 * 16 * 500 / 4.0))
    row = both.sides["lsr"]
    assert (row.ms, row.backward_ms, row.times_faster_than_eager) == (6.0, 2.0, 5.0)
    assert (row.share_of_floor, row.share_of_padded_floor) == (pytest.approx(1 / 3), 0.5)
    assert row.gflops is None
    assert both.sides["max first"] is None
    assert set(both.sides) == {"eager", "max first", "lsr"}


def test_a_side_out_of_memory_is_not_tried_again(monkeypatch):
    tried = []
    monkeypatch.setattr(benchmark, "attempt", lambda side, *args: tried.append(side))
    monkeypatch.setattr(benchmark, "SIDES", {"eager": None})
    passes = benchmark.compare(SMALL, [0.1], "float32", "cpu", 2)
    assert [one.sides for one in passes] == [{"eager": None}] * 2
    assert tried == ["eager"] * 2


def test_shares_of_what_did_not_run_are_none(monkeypatch):
    (forward, both) = measured_by(
        monkeypatch, {"eager": (None, None), "lsr": (4.0, 6.0), "matrix product": (None, None)}
    )
    row = both.sides["lsr"]
    assert (row.times_faster_than_eager, row.share_of_floor, row.backward_ms) == (None, None, 2.0)
    shown = benchmark.table([forward, both]).splitlines()
    assert [line.split()[0] for line in shown] == [
        *("forward", "eager", "lsr", "matrix"),
        *("forward", "eager", "lsr"),
    ]
    assert shown[1].split() == ["eager", "out", "of", "memory"]
    assert shown[2].split()[:3] == ["lsr", "4.00", "40.0"]
    assert len({len(line) for line in (shown[0], shown[2], shown[4])}) == 1


@linux
@on_cpu
def test_the_command(monkeypatch, quick, uncompiled, capsys, tmp_path):
    def greedy(case):
        return torch.empty(2**60)

    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setitem(SIDES, "max first", SIDES["max first"]._replace(compute=greedy))
    arguments = "--shape cpu A --texts 5 --active 0.1 1 --rounds 1 --plot".split()
    benchmark.main([*arguments, str(tmp_path / "roof.svg")])
    printed = capsys.readouterr()
    *lines, last = printed.out.splitlines()
    report = json.loads(last)
    assert report["torch"] == torch.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", report["date"])
    assert report["device"] in lines[0]
    assert report["gb_per_second"] > 0
    assert {name: shape["texts"] for name, shape in report["shapes"].items()} == {"cpu": 3, "A": 5}
    for shape in report["shapes"].values():
        assert [one["active"] for one in shape["passes"]] == [None, 0.1, 1.0]
        forward, *both = (one["sides"] for one in shape["passes"])
        assert set(forward) == set(SIDES)
        assert forward["matrix product"]["share_of_floor"] == 1
        assert forward["max first"] is None
        assert all(set(sides) == set(SIDES) - FLOORS for sides in both)
    assert "max first: out of memory" in printed.err
    assert sum("out of memory" in line for line in lines) == 6
    assert sum(line.startswith("shape ") for line in lines) == 2
    assert "<svg" in (tmp_path / "roof.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--active", "0"], "a share must be above 0 and at most 1, got 0"),
        (["--rounds", "0"], "must be at least 1, got 0"),
        (["--shape", "F"], "invalid choice: 'F'"),
    ],
)
def test_errors(capsys, arguments, message):
    with pytest.raises(SystemExit):
        benchmark.main(arguments)
    assert message in capsys.readouterr().err


def test_a_plot_without_matplotlib_is_refused_before_anything_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(benchmark, "compare", lambda *args: pytest.fail("it measured"))
    with pytest.raises(SystemExit):
        benchmark.main(["--plot", "roof.png"])
    assert "--plot needs matplotlib: `pip install matplotlib`" in capsys.readouterr().err


def test_the_plot_shows_roofs_and_points(monkeypatch, tmp_path):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "close", lambda figure: None)
    panels = [
        roofline.Panel("first", {"eager": (10.0, 30.0), "lsr": (500.0, 90.0)}, 100.0),
        roofline.Panel("nothing ran", {}, None),
    ]
    path = tmp_path / "roof.png"
    roofline.plot(panels, 20.0, "float32, CPU", str(path))
    assert path.read_bytes().startswith(b"\x89PNG")
    figure = plt.gcf()
    axes = figure.axes[0]
    assert (axes.get_title(), figure.get_suptitle()) == ("first", "float32, CPU")
    slanted, level = (line.get_xydata().tolist() for line in axes.lines)
    assert slanted[1] == level[0] == [5.0, 100.0]
    assert slanted[0][1] == pytest.approx(20 * slanted[0][0])
    assert level[1][1] == 100
    points = [[list(map(float, at)) for at in one.get_offsets()] for one in axes.collections]
    assert points == [[[10.0, 30.0]], [[500.0, 90.0]]]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[2:] == ["eager, 30 GFLOP/s", "lsr, 90 GFLOP/s"]
    monkeypatch.undo()
    plt.close(figure)
