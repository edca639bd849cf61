"""What tests of several folders share: a browser, and a dense model without weights to speak of."""

import shutil

import pytest

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


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
