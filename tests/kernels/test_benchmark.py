"""kernels/benchmark.py on a small batch."""

import json
import sys

import pytest
import torch

from lsr.kernels import benchmark

SMALL = benchmark.Shape(3, 12, 4, 16, 500)
ROW = {
    "ms": 1.5,
    "times_faster_than_eager": 2.0,
    "extra_mib": 3.0,
    "share_of_eager_memory": 1.0,
    "gflops": 9.0,
}


def test_tokens_are_those_of_the_mask():
    for shape in (SMALL, benchmark.SHAPES["cpu"]):
        case = benchmark.make_case(shape._replace(size=2, terms=50), 0.5, torch.float32, "cpu")
        assert int(case.mask.sum()) == shape.tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_sides_compute_the_same(monkeypatch, dtype):
    monkeypatch.setattr(benchmark, "CHUNK", 64)
    case = benchmark.make_case(SMALL, 0.1, dtype, "cpu")
    expected = benchmark.eager(case)
    assert 0.05 < (expected > 0).double().mean() < 0.2
    for name, compute in benchmark.SIDES.items():
        if name not in ("matrix product", "compiled"):
            torch.testing.assert_close(compute(case), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("backward", [False, True])
def test_a_measurement_counts_memory(monkeypatch, backward):
    def wasteful(case):
        torch.ones(50 * 2**18).sum()  # 50 MiB
        return benchmark.eager(case)

    monkeypatch.setitem(benchmark.SIDES, "wasteful", wasteful)
    measured = benchmark.measure("wasteful", SMALL, 0.1, "float32", "cpu", backward)
    assert 45 < measured.extra_mib < 80
    assert measured.milliseconds > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's sides")
def test_the_command(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(benchmark.SHAPES, "cpu", SMALL)
    benchmark.main(["--rounds", "1", "--json", "--plot", str(tmp_path / "roof.svg")])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["shape"], printed["device"]) == ("cpu", "CPU")
    assert set(printed["report"]["forward"]) == set(benchmark.SIDES) - {"compiled"}
    assert "lsr" in printed["report"]["forward and backward"]
    assert "<svg" in (tmp_path / "roof.svg").read_text()


def test_the_table_has_a_row_a_side():
    shown = benchmark.table({"forward": {"eager": ROW, "lsr": ROW}})
    assert [line.split()[0] for line in shown.splitlines()] == ["forward", "eager", "lsr"]
