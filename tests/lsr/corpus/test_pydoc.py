"""lsr/corpus/pydoc.py on the standard library of the Python that runs the tests."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lsr.corpus.corpus import open_corpus
from lsr.corpus.pydoc import read_pydoc
from lsr.documents import Document


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    return {document.id: document for document in read_pydoc()}


def test_thousands_of_unique_documents_in_order(documents: dict[str, Document]) -> None:
    again = list(read_pydoc())
    assert again == list(documents.values())
    ids = [document.id for document in again]
    assert ids == sorted(set(ids))
    # Some builds of Python come without Tk.
    assert len(ids) >= (8000 if importlib.util.find_spec("_tkinter") else 7300)


@pytest.mark.parametrize(
    ("name", "kind", "title"),
    [
        ("shutil.copy2", "function", "shutil.copy2(src, dst, *, follow_symlinks=True)"),
        ("shutil.move", "function", "shutil.move(src, dst, copy_function=copy2)"),
        ("copy.deepcopy", "function", "copy.deepcopy(x, memo=None, _nil=[])"),
        (
            "asyncio.gather",
            "function",
            "asyncio.gather(*coros_or_futures, return_exceptions=False)",
        ),
        ("os.path.join", "function", "os.path.join(a, *p)"),
        ("json.loads", "function", None),
        ("open", "function", None),
        ("os.replace", "function", None),
        ("re.sub", "function", None),
        ("sqlite3.connect", "function", None),
        ("random.random", "function", None),
        ("random.randint", "function", "random.randint(a, b)"),
        ("threading.get_ident", "function", None),
        ("subprocess.run", "function", None),
        ("xml.etree.ElementTree.parse", "function", None),
        ("unittest.mock.patch", "function", None),
        ("str.removeprefix", "method", "str.removeprefix(prefix, /)"),
        ("str.maketrans", "method", None),
        ("dict.setdefault", "method", None),
        ("int.bit_length", "method", "int.bit_length()"),
        ("datetime.datetime.strptime", "method", None),
        ("pathlib.Path.read_text", "method", None),
        ("argparse.ArgumentParser.add_argument", "method", None),
        ("socket.socket.recv", "method", None),
        ("itertools.chain.from_iterable", "method", None),
        ("int.real", "property", "int.real"),
        ("sched.scheduler.queue", "property", "sched.scheduler.queue"),
        ("collections.deque", "class", None),
        ("functools.partial", "class", None),
        ("decimal.Decimal", "class", None),
        ("OSError", "class", None),
        ("ssl.SSLContext", "class", None),
        ("concurrent.futures.ThreadPoolExecutor", "class", None),
        ("email.message.EmailMessage", "class", None),
        ("threading.Lock", None, None),
        ("shutil", "module", "module shutil"),
        ("os.path", "module", "module os.path"),
        ("sys.float_info", "constant", "sys.float_info"),
        ("help('with')", "topic", 'The "with" statement'),
    ],
)
def test_known_documents(
    documents: dict[str, Document], name: str, kind: str | None, title: str | None
) -> None:
    document = documents[name]
    assert document.title == (title or document.title)
    assert document.metadata["kind"] == (kind or document.metadata["kind"])


@pytest.mark.parametrize(
    "name",
    [
        "io.open",
        "posixpath.join",
        "ntpath.join",
        "asyncio.tasks.gather",
        "concurrent.futures.thread.ThreadPoolExecutor",
        "random.Random.randint",
        "sqlite3.dbapi2.connect",
        "socket.SocketType.recv",
        "collections.Counter.items",
        "IOError",
        "int.__add__",
        "distutils",
    ],
)
def test_no_second_name_for_an_object(documents: dict[str, Document], name: str) -> None:
    assert name not in documents


def test_texts(documents: dict[str, Document]) -> None:
    assert "metadata" in documents["shutil.copy2"].text
    assert documents["shutil.copy2"].metadata == {"kind": "function", "module": "shutil"}
    # Text from the constructor, from the base class, from the overridden method, from a comment.
    assert "max_workers" in documents["concurrent.futures.ThreadPoolExecutor"].text
    assert documents["email.message.EmailMessage"].text.startswith("Basic message object.")
    assert documents["io.BytesIO.seekable"].text != documents["io.IOBase.seekable"].text
    assert documents["selectors.PollSelector.register"].text.startswith("Register a file object")
    assert documents["html.parser.HTMLParser.handle_data"].text == "Overridable -- handle data"


def test_nothing_worthless_or_particular_to_one_run(documents: dict[str, Document]) -> None:
    for document in documents.values():
        assert len(document.text.split()) >= 2
        assert not re.search(" at 0x[0-9a-f]+|environ\\(\\{", document.title + document.text)
        assert not document.text.startswith(("Initialize self.", "Return repr(self)", "XXX"))
        assert " " not in document.id
        assert len(document.title) < 500


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "noisy_package"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import os\n"
        'print(\'{"id": "from print"}\')\n'
        "os.system('echo from the shell')\n"
        "from noisy_package._inner import exported\n"
        "from os.path import join\n"
    )
    (folder / "_inner.py").write_text(
        "import os\n"
        "def exported(environment=os.environ, names=frozenset('ab'), mode: int = 3):\n"
        "    'Exports the given names.'\n"
        "def _hidden():\n"
        "    'Not to be seen outside.'\n"
    )
    (folder / "broken.py").write_text("raise RuntimeError('needs another library')\n")
    (folder / "leaving.py").write_text("import sys; sys.exit(3)\n")
    (folder / "sound.py").write_text("def play(song):\n    'Plays a song aloud.'\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_package_that_prints_and_fails_in_parts(package: Path) -> None:
    with pytest.warns(UserWarning) as caught:
        documents = list(read_pydoc(["noisy_package"]))
    assert [(document.id, document.title, document.text) for document in documents] == [
        (
            "noisy_package.exported",
            "noisy_package.exported(environment=..., names=..., mode=3)",
            "Exports the given names.",
        ),
        ("noisy_package.sound.play", "noisy_package.sound.play(song)", "Plays a song aloud."),
    ]
    broken, leaving = [str(warning.message) for warning in caught]
    assert "skipped noisy_package.broken: " in broken
    assert broken.endswith("RuntimeError: needs another library")
    assert "skipped noisy_package.leaving: " in leaving


def test_package_that_cannot_be_imported(package: Path) -> None:
    (package / "__init__.py").write_text("import no_such_package")
    with pytest.raises(RuntimeError, match=r"No module named 'no_such(.|\n)*import noisy_package"):
        list(read_pydoc(["noisy_package"]))


def test_shadowing_module_is_not_documented(package: Path, documents: dict[str, Document]) -> None:
    (package.parent / "shutil.py").write_text("'A module of the user.'")
    assert {document.id: document for document in read_pydoc()} == documents


@pytest.mark.parametrize("name", ["no_such_package", "no_such.package", "../x", "json.no_such", ""])
def test_unknown_package(name: str) -> None:
    with pytest.raises(ValueError, match=f"package {name!r} is not installed: `pip install"):
        list(read_pydoc([name]))


def test_a_module_without_a_spec_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "made_up", ModuleType("made_up"))
    with pytest.raises(ValueError, match="package 'made_up' is not installed"):
        list(read_pydoc(["made_up"]))


def test_packages() -> None:
    documents = {document.id: document for document in open_corpus("pydoc:typer, json")}
    assert documents["typer.Typer"].metadata == {"kind": "class", "module": "typer"}
    assert "json.JSONDecoder.raw_decode" in documents
    assert {name.split(".")[0] for name in documents} == {"typer", "json"}
