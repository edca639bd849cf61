"""Fixtures for tests in several folders: a browser, child processes, an index, a server."""

import json
import multiprocessing
import os
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
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
    """Restore the service's log after the test."""
    import logging

    from lsr.service.log import LOGGERS

    loggers = [logging.getLogger(name) for name in LOGGERS]
    kept = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, before in zip(loggers, kept, strict=True):
        logger.handlers, logger.level, logger.propagate = before


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium on the path (`apt-get install chromium`)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def processes():
    """A multiprocessing context whose children have the libraries loaded, which takes seconds.

    Java does not survive a fork, so each child starts its own.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "sentence_transformers"])
    return context


@pytest.fixture(scope="session")
def dense_model(tmp_path_factory):
    """The path of a bi-encoder of random word vectors."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from lsr.encoders.load import default_tokenizer

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dense") / "model"
    vectors = StaticEmbedding(default_tokenizer().backend_tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[vectors]).save(str(path))
    return str(path)


@pytest.fixture(scope="session")
def corpus_of():
    """The function `write_corpus`."""
    return write_corpus


@pytest.fixture(scope="session")
def built(tmp_path_factory, dense_model):
    """An index of 200 documents, sparse and dense; tests must not change it."""
    from lsr.building.build import build_index
    from lsr.corpus.corpus import open_corpus

    folder = tmp_path_factory.mktemp("built")
    corpus = open_corpus(write_corpus(folder / "corpus.jsonl", 200))
    build_index(corpus, folder / "wings", "lexical", dense=dense_model)
    return folder / "wings"


@pytest.fixture(scope="session")
def serving():
    """A context manager: an ASGI application on a free port of this machine; its (host, port)."""
    import uvicorn

    @contextmanager
    def serve(app, **options):
        server = uvicorn.Server(
            uvicorn.Config(app, **({"ws": "none", "lifespan": "on", "log_config": None} | options))
        )
        with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
            thread = threading.Thread(target=server.run, args=([listener],))
            thread.start()
            try:
                end = time.monotonic() + 60
                while not server.started:
                    assert thread.is_alive() and time.monotonic() < end
                    time.sleep(0.01)
                yield listener.getsockname()
            finally:
                server.should_exit = True
                thread.join(60)
        assert not thread.is_alive()

    return serve


@pytest.fixture(scope="module")
def exact_bfloat16():
    """The interpreter multiplies the bit patterns of bfloat16: widen them to float32 before."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    original = builder.create_dot

    def widened(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self, a, b, *rest):
        return original(self, widened(a), widened(b), *rest)

    builder.create_dot = create_dot
    yield
    builder.create_dot = original


@pytest.fixture(scope="session")
def short_sighted(tmp_path_factory):
    """A checkpoint with one token per word, which reads 10 tokens: 8 of the text, 2 special."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    terms = [*special, *(f"w{number}" for number in range(40))]
    backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(terms)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad", "unk", "cls", "sep", "mask")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=10,
        **{f"{name}_token": token for name, token in zip(names, special, strict=True)},
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"vocab_size": len(terms), "num_attention_heads": 2, "max_position_embeddings": 10}
    config = BertConfig(**sizes)
    path = tmp_path_factory.mktemp("encoder") / "model"
    BertForMaskedLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def _comparable(value):
    """(type, value) pairs that a value of metadata compares as; a string may be a date too."""
    from lsr.documents import date_of

    if isinstance(value, bool):
        return [("boolean", value)]
    if not isinstance(value, str):
        return [("number", value)]
    found = date_of(value)
    if found is None:
        return [("string", value)]
    if not isinstance(found, datetime):
        found = datetime(found.year, found.month, found.day, tzinfo=UTC)
    return [("string", value), ("date", found)]


def _span(value):
    """The type of a filter's value, and the first and the last value that equal it."""
    if isinstance(value, datetime):
        return "date", value, value
    if isinstance(value, date):
        start = datetime(value.year, value.month, value.day, tzinfo=UTC)
        return "date", start, start + timedelta(days=1, microseconds=-1)
    ((kind, value), *_) = _comparable(value)
    return kind, value, value


def _compares(operator, value, asked):
    from lsr.filter import Range

    if isinstance(asked, Range):
        return all(
            bound is None or _compares(sign, value, bound)
            for sign, bound in ((">=", asked.low), ("<=", asked.high))
        )
    kind, first, last = _span(asked)
    for of, known in _comparable(value):
        if of == kind:
            return {
                "=": first <= known <= last,
                "<": known < first,
                "<=": known <= last,
                ">": known > last,
                ">=": known >= first,
            }[operator]
    return False


def filter_matches(condition, metadata):
    """Whether a document with these metadata passes a filter: the definition, in plain Python."""
    from lsr.filter import And, Comparison, Exists, HasAll, HasAny, In, Not, Or

    def values(key):
        found = metadata.get(key, [])
        return found if isinstance(found, list) else [found]

    def has(key, operator, asked):
        return any(_compares(operator, value, asked) for value in values(key))

    match condition:
        case And(parts):
            return all(filter_matches(part, metadata) for part in parts)
        case Or(parts):
            return any(filter_matches(part, metadata) for part in parts)
        case Not(part):
            return not filter_matches(part, metadata)
        case Comparison(key, "!=", value):
            return not has(key, "=", value)
        case Comparison(key, operator, value):
            return has(key, operator, value)
        case In(key, asked) | HasAny(key, asked):
            return any(has(key, "=", value) for value in asked)
        case HasAll(key, asked):
            return all(has(key, "=", value) for value in asked)
        case Exists(key):
            return any(
                values(known) and (known == key or known.startswith(f"{key}."))
                for known in metadata
            )
    raise AssertionError(condition)


@pytest.fixture(scope="session")
def matches():
    """`filter_matches`."""
    return filter_matches


class LuceneParser:
    """Lucene's classic query parser over an English index; call it through `jvm.call`."""

    def __init__(self, path):
        from jnius import autoclass

        folder = autoclass("java.nio.file.Paths").get(str(path))
        directory = autoclass("org.apache.lucene.store.FSDirectory").open(folder)
        reader = autoclass("org.apache.lucene.index.DirectoryReader").open(directory)
        self._searcher = autoclass("org.apache.lucene.search.IndexSearcher")(reader.getContext())
        analyzer = autoclass("org.apache.lucene.analysis.en.EnglishAnalyzer")()
        package = "org.apache.lucene.queryparser.classic"
        self._parser = autoclass(f"{package}.QueryParser")("contents", analyzer)

    def matching(self, query):
        """The ids of all documents that match."""
        found = self._searcher.search(self._parser.parse(query), 100_000)
        stored = self._searcher.storedFields()
        return sorted(stored.document(hit.doc).get("id") for hit in found.scoreDocs)


@pytest.fixture(scope="session")
def lucene_parser():
    """The class `LuceneParser`."""
    return LuceneParser
