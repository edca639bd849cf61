"""published.json: every number has a source, a model and a dataset, and the means are right."""

import pytest

from lsr.eval import reproduce as reproducing
from lsr.eval.measures import parse_measures
from lsr.eval.reproduce import MEAN, read_published

PUBLISHED = read_published()


def test_every_row_has_a_source_a_model_and_a_value():
    assert list(PUBLISHED.tables) == [
        *("beir13", "cqadupstack", "msmarco-dev", "dl19", "dl20", "miniature")
    ]
    seen = set()
    for name, table in PUBLISHED.tables.items():
        parse_measures(list({row.measure for row in table.rows}))
        for row in table.rows:
            assert row.table == name
            assert PUBLISHED.sources[row.source].title
            assert PUBLISHED.sources[row.source].url or row.source == "lsr"
            assert PUBLISHED.sources[row.source].evidence
            assert row.model in PUBLISHED.models
            assert row.dataset in (*table.datasets, MEAN)
            assert 0 < row.published < 1
        keys = [row._replace(published=0) for row in table.rows]
        assert len(set(keys)) == len(keys)
        seen |= {row.model for row in table.rows}
    assert seen == PUBLISHED.models.keys()
    for model in PUBLISHED.models.values():
        assert bool(model.encoder) != bool(model.obstacle)
        assert (model.mb > 0) == ("/" in model.encoder)
    for source in PUBLISHED.sources.values():
        assert source.commit == "" or len(source.commit) == 40


def test_datasets_are_those_of_lsr_and_have_a_host():
    for table in PUBLISHED.tables.values():
        for name in table.datasets:
            if name != reproducing.MINIATURE:
                assert reproducing._host(name) in reproducing.HOSTS.values()
                assert PUBLISHED.downloads[reproducing._archive(name)] > 0
    assert reproducing.CLOSE_ON.keys() <= set(PUBLISHED.tables["beir13"].datasets)


def test_means_of_sources_are_those_of_their_values():
    table = PUBLISHED.tables["beir13"]
    means = [row for row in table.rows if row.dataset == MEAN]
    assert len(means) == 12
    for mean in means:
        values = [
            row.published
            for row in table.rows
            if (row.model, row.source, row.measure) == (mean.model, mean.source, "nDCG@10")
            and row.dataset != MEAN
        ]
        assert len(values) == 13
        assert sum(values) / 13 == pytest.approx(mean.published, abs=0.0006)


def test_some_numbers_by_hand():
    values = {
        tuple(row[:4]) + row[5:]: row.published for t in PUBLISHED.tables.values() for row in t.rows
    }
    assert values["beir13", "splade-v3", "scifact", "nDCG@10", "splade-v3-paper"] == 0.71
    two_click = "pyserini-2cr-msmarco-v1-passage"
    assert values["msmarco-dev", "splade-pp-ed", "msmarco-dev", "RR@10", two_click] == 0.3828
    assert values["dl19", "splade-pp-ed", "dl19", "AP", two_click] == 0.505
