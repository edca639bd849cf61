"""indexes/dense_writer.py and dense_segments.py: what is on disk, after crashes too."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lsr.indexes import dense_rows
from lsr.indexes.dense import DenseIndex
from lsr.indexes.dense_segments import read_segment
from lsr.indexes.dense_writer import DenseWriter


def vectors_of(*numbers):
    return np.array([[number, 1, -number] for number in numbers], np.float32)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "dense"


def first_names(folder):
    writer = DenseWriter(folder, [], 3)
    writer.add(["b", "a", "c"], vectors_of(2, 1, 3))
    return writer.flush()


def contents(folder, names):
    index = DenseIndex.open(folder, names)
    return dict(zip(index.ids, index.vectors(index.ids)[:, 0].tolist(), strict=True))


def test_later_rows_replace_earlier_ones_and_deleted_ids_are_gone(folder):
    names = first_names(folder)
    assert contents(folder, names) == {"a": 1, "b": 2, "c": 3}
    writer = DenseWriter(folder, names, 3)
    writer.delete(["a", "nobody"])
    only_deleted = writer.flush()
    assert contents(folder, only_deleted) == {"b": 2, "c": 3}
    assert not (folder / f"{only_deleted[-1]}.npy").exists()
    writer.add(["c", "d"], vectors_of(30, 4))
    writer.delete(["d", "b"])  # of what was added just now, too
    writer.add(["b", "a"], vectors_of(20, 10))
    names = writer.flush()
    assert writer.flush() == names
    assert contents(folder, names) == {"a": 10, "b": 20, "c": 30}
    # The files that older commits list have not changed.
    assert contents(folder, only_deleted) == {"b": 2, "c": 3}


def test_merging_leaves_one_segment_in_order_of_id(folder):
    writer = DenseWriter(folder, first_names(folder), 3)
    writer.add(["c", "0"], vectors_of(30, 5))
    writer.delete(["b"])
    writer.merge("auto")
    names = writer.flush()
    writer.clean()
    assert contents(folder, names) == {"0": 5, "a": 1, "c": 30}
    (name,) = names
    assert sorted(path.name for path in folder.iterdir()) == [f"{name}.json", f"{name}.npy"]
    segment = read_segment(folder, name)
    assert segment.ids == ["0", "a", "c"]
    assert segment.size_bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert segment.largest_norm == pytest.approx(np.sqrt(1801))
    writer.merge("auto")
    assert writer.flush() == names  # nothing to merge
    writer.merge("hnsw")
    assert len(writer.flush()) == 2
    assert contents(folder, writer.flush()) == {"0": 5, "a": 1, "c": 30}


def test_all_deleted(folder):
    writer = DenseWriter(folder, first_names(folder), 3)
    writer.delete(["a", "b", "c"])
    for _ in range(2):
        index = DenseIndex.open(folder, writer.flush())
        assert (len(index), index.dimension) == (0, 3)
        assert index.search(vectors_of(1), 3) == [[]]
        writer.merge("hnsw")
    writer.add(["z"], vectors_of(9))
    assert contents(folder, writer.flush()) == {"z": 9}


def test_what_no_commit_lists_is_ignored_and_removed(folder):
    names = first_names(folder)
    crashed = DenseWriter(folder, names, 3)
    crashed.add(["a", "x"], vectors_of(100, 7))
    assert len(crashed.flush()) == 2
    assert contents(folder, names) == {"a": 1, "b": 2, "c": 3}
    # Files left by a writer that was killed while writing.
    (folder / "77.npy").write_bytes(b"\x93NUMPY")
    (folder / "77-hnsw.faiss").write_bytes(b"")
    (folder / "notes.txt").write_text("mine")
    writer = DenseWriter(folder, names, 3)
    assert {path.stem for path in folder.iterdir()} == {*names, "notes"}
    writer.add(["y"], vectors_of(8))
    assert contents(folder, writer.flush()) == {"a": 1, "b": 2, "c": 3, "y": 8}


def test_refreshing_reads_what_is_new_and_searches_stay_whole(folder):
    names = first_names(folder)
    index = DenseIndex.open(folder, names)
    writer = DenseWriter(folder, names, 3)
    writer.add(["d"], vectors_of(4))
    writer.delete(["a"])
    newer = writer.flush()
    base = index._rows.base
    index.refresh(newer)
    assert index._rows.base is base
    assert index.names == tuple(newer)
    assert index.ids == ["b", "c", "d"]
    writer.merge("hnsw")
    merged = writer.flush()
    writer.clean()
    # The old files are deleted, but the open index still works.
    assert index.vectors(["b", "d"])[:, 0].tolist() == [2, 4]
    with pytest.raises(FileNotFoundError):
        DenseIndex.open(folder, newer)
    index.refresh(merged)
    assert (index.kind, index.ids) == ("hnsw", ["b", "c", "d"])


def test_a_structure_can_be_read_after_its_file_is_gone(folder):
    writer = DenseWriter(folder, first_names(folder), 3)
    writer.merge("hnsw")
    index = DenseIndex.open(folder, writer.flush())
    for path in folder.iterdir():
        path.unlink()
    index.check()


@pytest.mark.parametrize("left", [0, 3, 60, -1])
@pytest.mark.parametrize("suffix", ["npy", "json", "faiss"])
def test_truncated_files_are_named(folder, suffix, left):
    writer = DenseWriter(folder, first_names(folder), 3)
    writer.merge("hnsw")
    names = writer.flush()
    writer.clean()
    (path,) = folder.glob(f"*.{suffix}")
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=f"{path.name}: not .*truncated"):
        DenseIndex.open(folder, names).check()


def test_foreign_files_are_named(folder):
    (name,) = names = first_names(folder)
    path = folder / f"{name}.npy"
    np.save(path, np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"npy: expected float32 of shape \(3, 3\), got .*\(2, 3"):
        DenseIndex.open(folder, names)
    np.save(path, np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"npy: expected float32 .* got float64"):
        DenseIndex.open(folder, names)
    for content in ([], {"ids": ["a"]}, 3):
        (folder / f"{name}.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=rf"{name}.json: not a dense segment"):
            DenseIndex.open(folder, names)
    with pytest.raises(ValueError, match="lists no segment"):
        DenseIndex.open(folder, [])


def test_refuses(folder):
    writer = DenseWriter(folder, [], 3)
    with pytest.raises(ValueError, match="vectors must have 3 numbers, got 2"):
        writer.add(["a"], np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="must be finite, that of document 'a' is not"):
        writer.add(["a"], np.full((1, 3), np.nan, np.float32))
    assert writer.flush() == []


def test_threads_find_what_one_finds_while_the_index_is_refreshed(folder, monkeypatch):
    monkeypatch.setattr(dense_rows, "WIDEST", 1)  # uses the approximate structure even for so few
    rng = np.random.default_rng(0)
    vectors, queries = (rng.standard_normal((n, 8)).astype(np.float32) for n in (400, 40))
    writer = DenseWriter(folder, [], 8)
    writer.add([f"d{number}" for number in range(400)], vectors)
    writer.merge("hnsw")
    names = [writer.flush()]
    writer.delete([f"d{number}" for number in range(200)])
    names.append(writer.flush())
    alone = [DenseIndex.open(folder, of_commit) for of_commit in names]
    expected = [[index.search(query[None], 5) for index in alone] for query in queries]
    index = DenseIndex.open(folder, names[0])
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(index.search, query[None], 5) for query in queries]
        index.refresh(names[1])
    assert all(of.result() in either for of, either in zip(found, expected, strict=True))
    assert [index.search(query[None], 5) for query in queries] == [new for _, new in expected]
