"""An index that a test may change."""

from pathlib import Path

import pytest


@pytest.fixture
def index(built, tmp_path):
    """A copy of it that a test may change."""
    import shutil

    return Path(shutil.copytree(built, tmp_path / "wings"))
