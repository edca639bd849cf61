"""indexes/manifest.py."""

import json
from dataclasses import asdict, replace

import pytest

from lsr.indexes.manifest import Manifest, read_manifest, write_manifest

MANIFEST = Manifest(
    generation=2,
    encoder="lexical",
    encoder_sha256="cd",
    vocabulary_sha256="ab",
    vocabulary_size=7,
    top_k=256,
    impact_scale=64,
    corpus="pydoc",
    encode_docs_per_second=10.5,
    quantisation_loss=0.004,
    created="2026-11-23T00:00:00+00:00",
    software={"torch": "2.13.0"},
)


def test_round_trip_and_overwrite(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST
    newer = replace(MANIFEST, generation=3, created="2026-11-24T00:00:00+00:00")
    write_manifest(tmp_path, newer)
    assert read_manifest(tmp_path) == newer
    assert newer.folder(tmp_path) == tmp_path / "generation-3"
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("version", [1, 2])
def test_older_versions_lack_fields_and_are_read_to_be_upgraded(tmp_path, version):
    content = asdict(MANIFEST) | {"format_version": version}
    since_2 = ("dense", "dense_sha256", "dense_kind") if version == 1 else ()
    for name in ("language", "word_scale", *since_2):
        del content[name]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert read_manifest(tmp_path, older=True) == replace(MANIFEST, format_version=version)
    with pytest.raises(ValueError, match=rf"must be 3, got {version}: .* `lsr upgrade {tmp_path}`"):
        read_manifest(tmp_path)
    content["language"] = "en"
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"missing \[\], unknown \['language'\]"):
        read_manifest(tmp_path, older=True)


def test_the_dense_side(tmp_path):
    manifest = replace(MANIFEST, dense="default", dense_sha256="ef", dense_kind="auto")
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


def test_absent(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "killed" / "generation-1").mkdir(parents=True)
    for path, message in (
        (tmp_path, "is not an index: it holds no manifest.json"),
        (tmp_path / "nowhere", "is not an index: there is no such directory"),
        (tmp_path / "file", "is not an index: it is a file"),
        (tmp_path / "file" / "within", "is not an index: there is no such directory"),
        (tmp_path / "killed", "is not an index yet: its build was not finished"),
    ):
        with pytest.raises(FileNotFoundError, match=f"^{path} {message}"):
            read_manifest(path)


def test_truncated(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"manifest.json: not valid JSON"):
        read_manifest(tmp_path)


def test_foreign_and_incomplete(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text('{"format_version": 99}')
    with pytest.raises(ValueError, match="must be 3, got 99: a newer version of lsr"):
        read_manifest(tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="format version must be 3, got None"):
        read_manifest(tmp_path)
    write_manifest(tmp_path, MANIFEST)
    content = json.loads(path.read_text())
    del content["encoder"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"missing \['encoder'\], unknown \[\]"):
        read_manifest(tmp_path)
