from pathlib import Path

import pytest

from lsr.corpus.corpus import open_corpus
from lsr.encoders.load import resolve
from lsr.eval.datasets import load_dataset
from lsr.paths import is_path, missing
from lsr.training.sources import ExampleSource, load_examples


@pytest.mark.parametrize(
    "name", ["./a", "../a", "/a", "~/a", "a.tsv.gz", "run.trec", "a/b.json", "a\\b", "a/"]
)
def test_paths(name: str) -> None:
    assert is_path(name)


@pytest.mark.parametrize("name", ["scifact", "beir/scifact", "org/model-v1.5", "msmarco-passage/x"])
def test_names(name: str) -> None:
    assert not is_path(name)


def test_the_part_of_a_path_that_is_there_is_named(tmp_path: Path) -> None:
    assert str(missing(f"{tmp_path}/a/b")).endswith(f"; {tmp_path} exists, but does not hold it")
    assert str(missing("./nowhere")) == "./nowhere: no such file or folder"


@pytest.mark.parametrize("name", ["./no/such/dir", "~/no", "no.such/dir/"])
def test_a_wrong_path_is_no_download(name: str) -> None:
    for opened in (
        open_corpus,
        load_dataset,
        lambda name: load_examples(ExampleSource(name)),
        resolve,
    ):
        with pytest.raises(FileNotFoundError, match="no such ") as caught:
            opened(name)
        assert "download" not in str(caught.value) and "hub" not in str(caught.value)


def test_a_checkpoint_that_is_a_file_or_lies_deeper_than_a_hub_name(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("")
    for name in (str(path), "runs/some/model"):
        with pytest.raises(FileNotFoundError, match="no such directory of a checkpoint"):
            resolve(name)


@pytest.mark.parametrize(
    ("error", "reason"),
    [("LocalEntryNotFoundError", "does not answer"), ("OSError", "did not give it .no space left")],
)
def test_a_hub_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, error: str, reason: str
) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    def snapshot_download(name: str) -> str:
        raise getattr(errors, error, OSError)("no space left\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    message = f"no encoder 'org/model': it is not a local directory .*, and the hub {reason}"
    with pytest.raises(FileNotFoundError, match=message):
        resolve("org/model")
