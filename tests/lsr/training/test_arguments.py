"""lsr/training/arguments.py."""

import pytest

from lsr.training import arguments
from lsr.training.recipe import load_recipe


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_only_where_the_device_has_it(fast, monkeypatch):
    monkeypatch.setattr(arguments.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(arguments, "bfloat16_is_fast", lambda: fast)
    assert arguments.in_bfloat16(load_recipe("adapt")) is fast
    plain = load_recipe("adapt", settings={"training.bf16": "false"})
    assert not arguments.in_bfloat16(plain)
