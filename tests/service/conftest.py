"""A small real index with both sides, and the API around it."""

import json
import logging
from pathlib import Path

import pytest

from lsr.service.log import LOGGERS

WORDS = "heat flow wing plate layer pressure shock nose cone cylinder boundary theory".split()


def texts(n, seed=0, words=WORDS, length=8):
    """`n` texts of random words; each ends in a word of its own."""
    import random

    rng = random.Random(seed)
    return [" ".join([*rng.choices(words, k=length), f"number{i}"]) for i in range(n)]


def write_corpus(path, n, seed=0):
    """A JSONL corpus d0, d1, … with titles and metadata."""
    with path.open("w") as file:
        for i, text in enumerate(texts(n, seed)):
            record = {
                "_id": f"d{i}",
                "title": f"Title {i}",
                "text": text,
                "kind": f"k{i % 3}",
                "year": 1950 + i % 20,
            }
            file.write(json.dumps(record) + "\n")
    return path


@pytest.fixture
def log_kept():
    """The service's log goes on to where it went before the test."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    kept = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, before in zip(loggers, kept, strict=True):
        logger.handlers, logger.level, logger.propagate = before


@pytest.fixture(scope="session")
def corpus_of():
    """`write_corpus`."""
    return write_corpus


@pytest.fixture(scope="session")
def built(tmp_path_factory, dense_model):
    """An index of 200 documents, sparse and dense, not to be changed."""
    from lsr.building.build import build_index
    from lsr.corpus.corpus import open_corpus

    folder = tmp_path_factory.mktemp("built")
    corpus = open_corpus(write_corpus(folder / "corpus.jsonl", 200))
    build_index(corpus, folder / "wings", "lexical", dense=dense_model)
    return folder / "wings"


@pytest.fixture
def index(built, tmp_path):
    """A copy of it that a test may change."""
    import shutil

    return Path(shutil.copytree(built, tmp_path / "wings"))
