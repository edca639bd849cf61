"""Collections of ir_datasets, which downloads them at first use."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from lsr.documents import Document, MetadataValue, checked_id, metadata_of
from lsr.lines import OnBad


def downloaded(name: str, read: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """Yield what `read` yields for the ir_datasets id `name`, which is downloaded at first use.

    Raises:
        ConnectionError: it cannot be downloaded.
    """
    from requests.exceptions import RequestException

    logger = logging.getLogger("ir_datasets")
    logger.addFilter(_is_no_failed_attempt)
    try:
        yield from read()
    except (RuntimeError, RequestException) as error:
        # ir_datasets raises RuntimeError when every source of a file failed.
        if isinstance(error, RuntimeError) and "download" not in str(error):
            raise
        from ir_datasets.util import home_path

        home = home_path()
        raise ConnectionError(
            f"{name}: it is no local path and not in {home}, and ir_datasets could not download "
            f"it. Run this on a machine with a network, or copy the folder {home} from one"
        ) from error
    finally:
        logger.removeFilter(_is_no_failed_attempt)


def _is_no_failed_attempt(record: logging.LogRecord) -> bool:
    """Whether a log record is not about a failed download, which the raised error reports."""
    return not str(record.msg).lower().startswith(("download error", "download failed", "[error]"))


def ir_datasets_reader(name: str) -> Callable[[OnBad], Iterator[Document]]:
    """Return the reader of the documents of an ir_datasets id.

    Raises:
        ValueError: there is no such id, or it has no documents.
    """
    import ir_datasets

    try:
        dataset = ir_datasets.load(name)
    except KeyError as error:
        raise ValueError(
            f"{name}: not a file, a folder, pydoc or an ir_datasets id (https://ir-datasets.com)"
        ) from error
    if not dataset.has_docs():
        raise ValueError(f"{name}: this ir_datasets id has no documents")

    def read(_: OnBad) -> Iterator[Document]:
        left_out: set[str] = set()
        for doc in downloaded(name, dataset.docs_iter):
            fields = doc._asdict()
            doc_id, title = checked_id(fields.pop("doc_id")), fields.pop("title", "")
            if "text" not in fields:
                # Collections without a text field define which fields make up the text.
                title, fields["text"] = "", doc.default_text()
            text = fields.pop("text")
            yield Document(doc_id, title or "", text, _metadata(name, fields, left_out))

    return read


def _metadata(
    name: str, fields: Mapping[str, object], left_out: set[str]
) -> dict[str, MetadataValue | list[MetadataValue]]:
    """Return the fields that metadata can hold; a warning names each other field, once.

    This is no error: users cannot edit these collections, and some have objects in lists.
    """
    kept: dict[str, MetadataValue | list[MetadataValue]] = {}
    for key, value in fields.items():
        try:
            kept |= metadata_of({key: _plain(value)})
        except ValueError as error:
            if key not in left_out:
                left_out.add(key)
                warnings.warn(f"{name}: the field {key!r} is left out: {error}", stacklevel=2)
    return kept


def _plain(value: object) -> object:
    """Return `value` with named tuples turned into dictionaries."""
    if hasattr(value, "_asdict"):
        return {key: _plain(member) for key, member in value._asdict().items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
