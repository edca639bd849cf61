"""kernels/benchmark.py on a small batch."""

import sys

import pytest
import torch

from lsr.kernels import benchmark


@pytest.fixture
def small(monkeypatch):
    for name, value in {"BATCH": 3, "LENGTH": 12, "SHORTEST": 4, "SIZE": 16, "TERMS": 500}.items():
        monkeypatch.setattr(benchmark, name, value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_sides_compute_the_same(small, dtype):
    case = benchmark.make_case(0.1, dtype)
    expected = benchmark.eager(case)
    assert 0.05 < (expected > 0).double().mean() < 0.2
    for name, compute in benchmark.SIDES.items():
        if name != "matrix product":
            torch.testing.assert_close(compute(case), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("backward", [False, True])
def test_a_measurement_counts_memory(small, monkeypatch, backward):
    def wasteful(case):
        torch.ones(50 * 2**18).sum()  # 50 MiB
        return benchmark.eager(case)

    monkeypatch.setitem(benchmark.SIDES, "wasteful", wasteful)
    measured = benchmark.measure("wasteful", 0.1, "float32", backward)
    assert 45 < measured.extra_mib < 80
    assert measured.milliseconds > 0


def test_the_table_has_a_row_a_side():
    row = {"ms": 1.5, "times_faster_than_eager": 2.0, "extra_mib": 3.0, "share_of_eager_memory": 1}
    shown = benchmark.table({"forward": {"eager": row, "lsr": row}})
    assert [line.split()[0] for line in shown.splitlines()] == ["forward", "eager", "lsr"]
