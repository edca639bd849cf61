import copy
import gc
import multiprocessing
import os
import pickle

import pytest

from lsr.training.texts import Texts

PAIRS = [("b", "zwei\n"), ("a", ""), ("ü", "日本 \ud800"), ("c", "x" * 1000)]


def test_is_the_mapping_it_was_made_of():
    texts = Texts(iter(PAIRS))
    assert dict(texts) == dict(PAIRS)
    assert list(texts) == ["b", "a", "ü", "c"] and len(texts) == 4
    assert "a" in texts and "d" not in texts
    with pytest.raises(KeyError, match="'d'"):
        texts["d"]
    assert dict(Texts([])) == {}
    assert dict(Texts([("a", "")])) == {"a": ""}


def test_of_equal_ids_the_first_is_kept():
    assert dict(Texts([("a", "1"), ("b", "2"), ("a", "3")])) == {"a": "1", "b": "2"}


def test_copies_read_the_same_file():
    texts = Texts(PAIRS)
    assert copy.deepcopy(texts) is texts
    pickled = pickle.dumps(texts)
    assert len(pickled) < 500  # no text in it
    assert dict(pickle.loads(pickled)) == dict(PAIRS)
    assert dict(pickle.loads(pickle.dumps(Texts([])))) == {}


def read(texts, key, queue):
    queue.put(texts[key])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_other_processes_read_and_do_not_remove(method):
    context = multiprocessing.get_context(method)
    texts, queue = Texts(PAIRS), context.Queue()
    process = context.Process(target=read, args=(texts, "b", queue))
    process.start()
    assert queue.get(timeout=60) == "zwei\n"
    process.join()
    assert process.exitcode == 0
    assert texts["c"] == "x" * 1000 and texts._folder.exists()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_file_stays_when_a_fork_drops_its_copy():
    texts = Texts(PAIRS)
    child = os.fork()
    if not child:
        del texts
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert dict(texts) == dict(PAIRS) and texts._folder.exists()


def test_the_file_goes_with_the_mapping():
    texts = Texts(PAIRS)
    folder, file = texts._folder, texts._file
    del texts
    gc.collect()
    assert not folder.exists()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)
