"""lsr/pydoc.py on the standard library of whatever Python runs the suite."""

import re

import pytest

from lsr.pydoc import read_pydoc


@pytest.fixture(scope="module")
def documents():
    return list(read_pydoc())


def test_thousands_of_unique_documents_in_order(documents):
    ids = [document.id for document in documents]
    assert len(ids) > 5000
    assert ids == sorted(set(ids))


def test_known_documents(documents):
    known = {document.id: document for document in documents}
    copy2 = known["shutil.copy2"]
    assert copy2.title == "shutil.copy2(src, dst, *, follow_symlinks=True)"
    assert "metadata" in copy2.text
    assert copy2.metadata == {"kind": "function", "module": "shutil"}
    assert known["shutil"].title == "module shutil"
    kinds = {name: known[name].metadata["kind"] for name in ("str.split", "re", "decimal.Decimal")}
    assert kinds == {"str.split": "method", "re": "module", "decimal.Decimal": "class"}


def test_nothing_worthless_or_particular_to_one_run(documents):
    for document in documents:
        assert len(document.text.split()) >= 3
        assert not re.search(" at 0x[0-9a-f]+", document.title + document.text)
        assert not document.text.startswith(("Initialize self.", "Return repr(self)"))
        assert "._" not in document.id


def test_packages_and_unknown_packages():
    ids = [document.id for document in read_pydoc(["typer"])]
    assert "typer.Typer" in ids or "typer.main.Typer" in ids
    with pytest.raises(ValueError, match="'no_such_package' is not installed: `pip install"):
        list(read_pydoc(["no_such_package"]))
