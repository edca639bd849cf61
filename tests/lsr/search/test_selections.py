"""The rows of the dense side that pass a filter, through commits and merges of both sides."""

import random

import numpy as np
import pytest
from scipy.sparse import csr_array

from lsr.documents import Document
from lsr.filter_text import parse
from lsr.indexes.dense import DenseIndex
from lsr.indexes.dense_writer import DenseWriter
from lsr.indexes.lucene import LuceneIndex
from lsr.search import selections
from lsr.search.selections import Selections

FILTERS = [parse(f"part = {part}") for part in range(3)] + [parse("not part = 1")]


class Sides:
    """Both sides of an index, and the part of each document by id."""

    def __init__(self, path):
        self.lucene = LuceneIndex.create(path / "lucene", ["a"])
        self.writer = DenseWriter(path / "dense", [], 4)
        self.path = path
        self.parts = {}

    def change(self, added, deleted=()):
        vectors = np.random.default_rng(len(self.parts)).standard_normal((len(added), 4))
        documents = [Document(doc_id, metadata={"part": part}) for doc_id, part in added.items()]
        self.lucene.delete(deleted)
        self.writer.delete(list(deleted))
        ones = csr_array(np.ones((len(added), 1), dtype=np.int32))
        self.lucene.add(documents, ones)
        self.writer.add(list(added), vectors.astype(np.float32))
        for doc_id in deleted:
            del self.parts[doc_id]
        self.parts |= added

    def commit(self, dense=None):
        self.names = self.writer.flush()
        self.lucene.commit({})
        if dense is None:
            return DenseIndex.open(self.path / "dense", self.names)
        dense.refresh(self.names)
        return dense

    def check(self, dense, found):
        query = np.ones((1, 4), np.float32)
        for condition in FILTERS:
            allowed = found.of(condition)
            (hits,) = dense.search(query, 1000, allowed)
            wanted = {
                doc_id
                for doc_id, part in self.parts.items()
                if (part != 1 if "not" in str(condition) else part == condition.value)
            }
            assert {doc_id for doc_id, _ in hits} == wanted, str(condition)


def test_selections_follow_commits_and_merges(tmp_path, monkeypatch):
    rng = random.Random(0)
    sides = Sides(tmp_path)
    read = []
    ids_of_segment = LuceneIndex.ids_of_segment

    def counted(index, name, n):
        read.append(name)
        return ids_of_segment(index, name, n)

    monkeypatch.setattr(LuceneIndex, "ids_of_segment", counted)
    with sides.lucene:
        sides.change({f"d{n}": n % 3 for n in range(60)})
        dense = sides.commit()
        found = Selections(sides.lucene, dense)
        sides.check(dense, found)
        for step in range(12):
            new = {f"e{step}-{n}": rng.randrange(3) for n in range(rng.randrange(1, 6))}
            again = {doc_id: rng.randrange(3) for doc_id in rng.sample(sorted(sides.parts), 5)}
            gone = rng.sample(sorted(sides.parts.keys() - again.keys()), 3)
            sides.change(new | again, gone)
            if step == 6:
                sides.lucene.force_merge()
            if step == 9:
                sides.writer.merge("flat")
            before = len(read)
            dense = sides.commit(dense)
            sides.check(dense, found)
            # One commit, one new segment; all of them where the base of the vectors is another.
            assert len(read) - before == (len(sides.lucene.segments()) if step == 9 else 1)


def test_the_last_selections_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(selections, "KEPT", 2)
    sides = Sides(tmp_path)
    with sides.lucene:
        sides.change({f"d{n}": n % 3 for n in range(6)})
        dense = sides.commit()
        found = Selections(sides.lucene, dense)
        first, second = found.of(FILTERS[0]), found.of(FILTERS[1])
        assert found.of(FILTERS[0]) is first
        found.of(FILTERS[2])
        assert found.of(FILTERS[0]) is first
        assert found.of(FILTERS[1]) is not second
        with pytest.raises(ValueError, match="value under the key 'no'"):
            found.of(parse("no = 1"))
