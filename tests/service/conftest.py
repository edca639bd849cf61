"""An index that a test may change, and the service's log."""

import logging
from pathlib import Path

import pytest

from lsr.service.log import LOGGERS


@pytest.fixture
def log_kept():
    """The service's log goes on to where it went before the test."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    kept = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, before in zip(loggers, kept, strict=True):
        logger.handlers, logger.level, logger.propagate = before


@pytest.fixture
def index(built, tmp_path):
    """A copy of it that a test may change."""
    import shutil

    return Path(shutil.copytree(built, tmp_path / "wings"))
