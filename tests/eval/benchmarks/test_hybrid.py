"""eval/benchmarks/hybrid.py runs on a small corpus; times are not checked."""

import json

import pytest

from lsr.eval.benchmarks.hybrid import MODES, main, synthetic_texts


def test_synthetic_texts_are_reproducible_and_zipfian():
    texts = list(synthetic_texts(1500, 20, 1))
    assert texts == list(synthetic_texts(1500, 20, 1)) and len(texts) == 1500
    words = [word for text in texts for word in text.split()]
    assert len(words) == 30_000
    counts = sorted((words.count(word) for word in set(words[:300])), reverse=True)
    assert counts[0] > 20 * counts[-1]


@pytest.mark.slow
def test_every_mode_is_timed_beside_its_sides(tmp_path, capsys):
    arguments = ["--documents", "300", "--queries", "3", "--folder", str(tmp_path)]
    main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found["milliseconds"]) == list(MODES)
    sides = found["milliseconds"]["sparse, k = 1000"] + found["milliseconds"]["dense, k = 1000"]
    expected = found["milliseconds"]["hybrid"] / sides
    assert found["ratios"]["hybrid / (sparse + dense, k = 1000)"] == pytest.approx(expected)
    main(arguments)  # the index exists already
    assert "built in" not in capsys.readouterr().err
