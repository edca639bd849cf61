"""The benchmark of filters in small."""

import pytest

from lsr.eval.benchmarks import filters


@pytest.mark.slow
def test_all_sides_and_filters_are_measured(tmp_path):
    report = filters.compare(tmp_path, 1500, 2)
    measured = {name.partition(": ")[0] for name in report}
    assert measured == {*filters.SIDES, "dense, flat", "dense, hnsw"}
    facets = [name for name in report if ": facet " in name]
    assert len(facets) == len(filters.FACETS) * len(filters.AMONG)
    rows = [row for row in report.values() if "ratio" in row]
    assert len(rows) == len(measured) * len(filters.FILTERS)
    assert all(row["with"] > 0 and ("direct" in row or row["share"] >= 0.5) for row in rows)
    assert all(row.get("recall", 1) > 0.8 for row in rows)
    shares = {
        name.partition(": ")[2]: row["share"] for name, row in report.items() if "share" in row
    }
    assert 0.4 < shares["flag = true"] < 0.6 and 0 < shares["code = c77"] < 0.001
    assert filters.table(report).count("\n") == len(report) + 1
