import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import pytest

from lsr.corpus import corpus
from lsr.corpus.corpus import open_corpus
from lsr.corpus.downloads import downloaded
from lsr.corpus.records import parse_document, read_queries
from lsr.documents import Document, Query
from lsr.lines import BadLine, CorpusError


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_content_joins_title_and_text() -> None:
    assert Document("1", "A", "b").content == "A b"
    assert Document("1", "", "b").content == "b"


@pytest.mark.parametrize("file", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_beir_folder(tmp_path: Path, file: str) -> None:
    lines = [
        {"_id": "d1", "title": "T", "text": "x", "metadata": {"url": "u", "tags": ["a", "b"]}},
        {"_id": "d2", "title": "", "text": "", "metadata": {}},
    ]
    write(tmp_path / file, "\n".join(map(json.dumps, lines)).encode())
    corpus = open_corpus(tmp_path)
    expected = [Document("d1", "T", "x", {"url": "u", "tags": ["a", "b"]}), Document("d2")]
    assert list(corpus) == expected
    assert list(corpus) == expected, "a corpus can be read again"
    assert corpus.name == str(tmp_path)
    assert corpus.bad_lines == []


def test_folder_without_corpus(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no corpus.jsonl or corpus.jsonl.gz"):
        open_corpus(tmp_path)


@pytest.mark.parametrize("id_key", ["_id", "id", "docid", "doc_id"])
@pytest.mark.parametrize("text_key", ["text", "contents", "body"])
def test_json_keys(tmp_path: Path, id_key: str, text_key: str) -> None:
    record = {id_key: 7, text_key: "x", "year": 1999, "ok": True, "none": None, "deep": {"a": 1}}
    path = write(tmp_path / "c.jsonl", json.dumps(record).encode())
    metadata = {"year": 1999, "ok": True, "deep.a": 1}
    assert list(open_corpus(path)) == [Document("7", "", "x", metadata)]


def test_all_of_a_record_is_kept(tmp_path: Path) -> None:
    record = {
        "_id": "d",
        "id": 2**62 + 1,
        "text": "x",
        "body": "another text",
        "sizes": [1, 2.5, None],
        "flags": [True, False],
        "vector": [0.5] * 100,
        "codes": list(range(1000)),
        "metadata": {"by": {"name": "é", "at": {"year": 1999}}, "tags": [], "gone": None, "a": {}},
    }
    path = write(tmp_path / "c.jsonl", json.dumps(record).encode())
    (document,) = open_corpus(path)
    assert (document.id, document.text) == ("d", "x")
    assert document.metadata == {
        "id": 2**62 + 1,
        "body": "another text",
        "sizes": [1, 2.5],
        "flags": [True, False],
        "vector": [0.5] * 100,
        "codes": list(range(1000)),
        "by.name": "é",
        "by.at.year": 1999,
        "tags": [],
    }


@pytest.mark.parametrize("file", ["c.tsv", "c.tsv.gz"])
def test_tsv_has_no_quoting(tmp_path: Path, file: str) -> None:
    path = write(tmp_path / file, b'1\t"a\n2\tT\tb"\n3\t\n')
    assert list(open_corpus(path)) == [
        Document("1", "", '"a'),
        Document("2", "T", 'b"'),
        Document("3"),
    ]


def test_bom_crlf_blank_lines_and_unicode_separators(tmp_path: Path) -> None:
    content = "\ufeff1\ta\u2028b\r\n\r\n  \n2\té\r\n".encode()
    path = write(tmp_path / "c.tsv", content)
    assert list(open_corpus(path)) == [Document("1", "", "a\u2028b"), Document("2", "", "é")]


GOOD = b'{"id": "a", "text": "x"}'
BAD_LINES = [
    (b'{"id": "b", ', r"invalid JSON \(.*\): \{\"id\": \"b\","),
    (b'["b"]', r"expected a JSON object, got list: \[\"b\"\]"),
    (b'{"text": "x"}', "no id .expected under one of _id, id, docid, doc_id"),
    (b'{"id": null, "text": "x"}', "no id "),
    (b'{"id": "", "text": "x"}', "empty id"),
    (b'{"id": "b c", "text": "x"}', "white space in id 'b c'"),
    (b'{"id": "b\\n", "text": "x"}', r"white space in id 'b\\n'"),
    (b'{"id": 1.5, "text": "x"}', "id must be a string or an integer, got float"),
    (b'{"id": true, "text": "x"}', "id must be a string or an integer, got bool"),
    (b'{"id": "b"}', "no text .expected under one of text, contents, body"),
    (b'{"id": "b", "text": 3}', "text must be a string, got int"),
    (b'{"id": "b", "text": "x", "title": []}', "title must be a string, got list"),
    (b'{"id": "b", "text": "\\ud800"}', "text holds a lone surrogate"),
    (b'{"id": "b", "text": "x", "year": "\\ud800"}', "year holds a lone surrogate"),
    (b'{"id": "b", "text": "x", "metadata": {"\\ud800": 1}}', "a key holds a lone surrogate"),
    (
        b'{"id": "%s", "text": "x"}' % (b"b" * 1001),
        "id must have at most 1000 characters, got 1001",
    ),
    (b'{"id": "b", "text": "x", "metadata": 3}', "metadata must be an object, got int"),
    (b'{"id": "b", "text": "x", "by": [{"a": 1}]}', "an item of by must be .* got an object"),
    (b'{"id": "b", "text": "x", "a": {"b": [[1]]}}', "an item of a.b must be .* got list"),
    (b'{"id": "b", "text": "x", "a": {"b": [NaN]}}', "an item of a.b must be finite, got nan"),
    (b'{"id": "b", "text": "x", "a": {"b": 1}, "a.b": 2}', "a.b is given twice"),
    (b'{"id": "b", "text": "x", "a": 1, "metadata": {"a": 2}}', "a is given twice"),
    (b'{"id": "b", "text": "x", "text": "y"}', r"invalid JSON .the key 'text' is given twice"),
    (b'{"id": "b", "text": "x", "by": {"a": 1, "a": 2}}', r"invalid JSON .the key 'a' is given tw"),
    (
        b'{"id": "b", "text": "x", "vector": [' + b"1, " * 100 + b"0.5]}",
        r"vector: a list of 101 numbers is not metadata \(at most 100, unless all are integers\); ",
    ),
    (
        b'{"id": "b", "text": "x", "a": ' + b'{"a": ' * 200 + b"1" + b"}" * 201,
        "a: objects are nested more than 100 deep",
    ),
    (b'{"id": "b", "text": "\xff"}', r"invalid UTF-8 \(invalid start byte at byte 21 .*\\xff"),
    (GOOD, "duplicate id 'a'"),
    (b"[" * 100_000, "invalid JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_bad_json_line(tmp_path: Path, line: bytes, reason: str) -> None:
    last = b'{"id": "z", "text": "x"}'
    path = write(tmp_path / "c.jsonl", b"\n".join([GOOD, b"", line, last]))
    with pytest.raises(CorpusError, match=r"c\.jsonl:3: " + reason) as caught:
        list(open_corpus(path))
    assert len(str(caught.value)) < len(str(path)) + 250
    corpus = open_corpus(path, skip_bad=True)
    for _ in range(2):
        assert [d.id for d in corpus] == ["a", "z"]
        assert corpus.bad_lines == [caught.value.bad_line]
    assert corpus.bad_lines[0][:2] == (str(path), 3)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"2", "expected 2 or 3 tab-separated columns, got 1: 2"),
        (b"2\ta\tb\tc", "expected 2 or 3 tab-separated columns, got 4"),
        (b"\ta", "empty id"),
        (b"2 3\ta", "white space in id '2 3'"),
    ],
)
def test_bad_tsv_line(tmp_path: Path, line: bytes, reason: str) -> None:
    path = write(tmp_path / "c.tsv", b"1\ta\n" + line)
    with pytest.raises(CorpusError, match=r"c\.tsv:2: " + reason):
        list(open_corpus(path))


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "c.tsv.gz"
    lines = b"".join(b"%d\t%d\n" % (i, i * i * 7919) for i in range(20_000))
    content = gzip.compress(lines)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorpusError, match=r"c\.tsv\.gz:\d+: truncated or damaged gzip"):
        list(open_corpus(path))
    corpus = open_corpus(path, skip_bad=True)
    n_docs = len(list(corpus))
    assert 0 < n_docs < 20_000
    assert [bad.line for bad in corpus.bad_lines] == [n_docs + 1]


def test_file_that_is_not_gzip(tmp_path: Path) -> None:
    path = tmp_path / "c.tsv.gz"
    path.write_bytes(b"1\ta\n")
    with pytest.raises(CorpusError, match="gz:1: truncated or damaged gzip .Not a gzipped file"):
        list(open_corpus(path))


def test_empty_corpus(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", b"\n")
    with pytest.raises(ValueError, match=r"c\.jsonl: no documents \(0 bad lines\)"):
        list(open_corpus(path))
    write(path, b"{\n[]\n")
    with pytest.raises(ValueError, match=r"c\.jsonl: no documents \(2 bad lines\)"):
        list(open_corpus(path, skip_bad=True))


def test_names_that_are_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent.jsonl.gz: no such file"):
        open_corpus(tmp_path / "absent.jsonl.gz")
    with pytest.raises(ValueError, match="c.pdf: expected a .jsonl or .tsv file"):
        open_corpus(write(tmp_path / "c.pdf", b""))


class TitledDoc(NamedTuple):
    doc_id: str
    title: str
    text: str
    year: int


class Author(NamedTuple):
    name: str
    born: int | None


class NestedDoc(NamedTuple):
    doc_id: str
    text: str
    author: Author
    others: tuple[Author, ...]


class FieldsDoc(NamedTuple):
    doc_id: str
    headline: str
    paragraphs: tuple[str, ...]

    def default_text(self) -> str:
        return " ".join([self.headline, *self.paragraphs])


def test_ir_datasets_id(monkeypatch: pytest.MonkeyPatch) -> None:
    collections = {
        "titled": [TitledDoc("1", "T", "x", 1999)],
        "fields": [FieldsDoc("1", "H", ("p", "q"))],
        "nested": [
            NestedDoc(str(n), "x", Author("A", None), (Author("B", 1),) * n) for n in range(3)
        ],
        "queries-only": None,
    }

    def load_collection(name: str) -> SimpleNamespace:
        docs = collections[name]
        return SimpleNamespace(has_docs=lambda: docs is not None, docs_iter=lambda: iter(docs))

    module = ModuleType("ir_datasets")
    module.load = load_collection
    monkeypatch.setitem(sys.modules, "ir_datasets", module)
    corpus = open_corpus("titled")
    assert list(corpus) == list(corpus) == [Document("1", "T", "x", {"year": 1999})]
    metadata = {"headline": "H", "paragraphs": ["p", "q"]}
    assert list(open_corpus("fields")) == [Document("1", "", "H p q", metadata)]
    with pytest.warns(UserWarning, match="nested: the field 'others' is left out: an it") as warned:
        nested = list(open_corpus("nested"))
    assert len(warned) == 1
    assert [document.metadata for document in nested] == [
        {"author.name": "A", "others": []},
        {"author.name": "A"},
        {"author.name": "A"},
    ]
    with pytest.raises(ValueError, match="no-such/id: not a file, a folder, pydoc or an ir_dat"):
        open_corpus("no-such/id")
    with pytest.raises(ValueError, match="queries-only: this ir_datasets id has no documents"):
        open_corpus("queries-only")


@pytest.mark.parametrize(
    ("name", "packages"), [("pydoc", None), ("pydoc:numpy, scipy", ["numpy", "scipy"])]
)
def test_pydoc(monkeypatch: pytest.MonkeyPatch, name: str, packages: list[str] | None) -> None:
    asked = []

    def read_pydoc(packages: list[str] | None) -> Iterator[Document]:
        asked.append(packages)
        yield Document("1", "", "x")

    monkeypatch.setattr(corpus, "read_pydoc", read_pydoc)
    assert list(open_corpus(name)) == [Document("1", "", "x")]
    assert asked == [packages]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_read_queries(tmp_path: Path, suffix: str) -> None:
    expected = [Query("1", "a b"), Query("2", "c")]
    jsonl = b'{"_id": "1", "text": "a b", "metadata": {}}\n{"qid": 2, "query": "c"}\n'
    assert read_queries(write(tmp_path / f"q.jsonl{suffix}", jsonl)) == expected
    assert read_queries(write(tmp_path / f"q.tsv{suffix}", b"1\ta b\r\n2\tc")) == expected


def test_read_queries_rejects(tmp_path: Path) -> None:
    path = tmp_path / "q.tsv"
    for content, message in [
        (b"1\ta\n1\tb\n", "q.tsv:2: duplicate id '1': 1\tb"),
        (b"1\ta\tb\n", "q.tsv:1: expected 2 tab-separated columns, got 3"),
        (b"\n", "q.tsv: no queries"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_queries(write(path, content))
    with pytest.raises(CorpusError, match="q.jsonl:1: no text .expected under one of text, query"):
        read_queries(write(tmp_path / "q.jsonl", b'{"id": "1"}'))
    with pytest.raises(ValueError, match="q.txt: expected a .jsonl or .tsv file"):
        read_queries(write(tmp_path / "q.txt", b""))
    with pytest.raises(FileNotFoundError, match="absent.tsv: no such file"):
        read_queries(tmp_path / "absent.tsv")


def test_bad_line_names_its_parts() -> None:
    error = CorpusError(Path("c.tsv"), 4, "empty id", b"\tx\n")
    assert error.bad_line == BadLine("c.tsv", 4, "empty id")
    assert str(error) == "c.tsv:4: empty id: x"


def test_a_failed_download_is_told_and_other_errors_pass() -> None:
    def failing(message: str) -> Iterator[int]:
        yield 1
        raise RuntimeError(message)

    with pytest.raises(
        ConnectionError,
        match="beir/x: it is no local path and not in .*, and ir_datasets could not download it",
    ):
        list(downloaded("beir/x", lambda: failing("All download sources failed")))
    with pytest.raises(RuntimeError, match="something else"):
        list(downloaded("beir/x", lambda: failing("something else")))


def test_a_document_of_one_line():
    assert parse_document(b'{"id": "d", "text": "x", "year": 1}') == Document(
        "d", "", "x", {"year": 1}
    )
    with pytest.raises(ValueError, match="invalid UTF-8"):
        parse_document(b'{"id": "\xff"}')
    with pytest.raises(ValueError, match="invalid JSON"):
        parse_document(b'{"id": "d"')


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
def test_metadata_is_finite(number: str) -> None:
    with pytest.raises(ValueError, match="year must be finite, got"):
        parse_document(b'{"id": "d", "text": "x", "year": %s}' % number.encode())


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_byte_order_marks_line_ends_and_spaces_around_ids(tmp_path: Path, end: bytes) -> None:
    mark = b"\xef\xbb\xbf"
    records = [mark + b'{"_id": "a", "text": "x"}', b" \t", mark + b'{"_id": "b", "text": " y "}']
    for name, lines in (
        ("c.jsonl", records),
        ("c.tsv", [mark + b" a\tx", b"\t\t", mark + b"b \t y "]),
    ):
        path = write(tmp_path / name, end.join(lines))
        assert [(d.id, d.text) for d in open_corpus(path)] == [("a", "x"), ("b", " y ")]
        assert read_queries(path) == [Query("a", "x"), Query("b", " y ")]


@pytest.mark.parametrize("name", ["c.jsonl", "c.tsv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused(tmp_path: Path, name: str, encoding: str) -> None:
    path = write(tmp_path / name, '{"id": "a", "text": "b"}\n'.encode(encoding))
    for skip_bad in (False, True):
        with pytest.raises(CorpusError, match=":1: this file is in UTF-16 or UTF-32"):
            list(open_corpus(path, skip_bad=skip_bad))
    with pytest.raises(CorpusError, match="write it in UTF-8"):
        read_queries(path)


def test_nul_bytes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c.tsv", b"a\tx\nb\ty\0z\n")
    with pytest.raises(CorpusError, match=r"c\.tsv:2: a NUL byte \(byte 3 of the line\)"):
        list(open_corpus(path))
