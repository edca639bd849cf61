"""Documents out of a stream of NDJSON, a group at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

from lsr.corpus.records import parse_document
from lsr.documents import Document

GROUP = 256
GROUP_BYTES = 2**22


async def read_documents(
    chunks: AsyncIterator[bytes], longest: int
) -> AsyncIterator[list[Document]]:
    """Groups of documents, in order; the stream is read on when a group has been taken.

    Args:
        chunks: the stream, cut anywhere.
        longest: bytes of a line.

    Raises:
        ValueError: a line cannot be used: ``line N: why``. Documents before it that are in no
            group yet are left out.
    """
    group: list[Document] = []
    size = number = 0
    async for line in _lines(chunks, longest):
        number += 1
        if len(line) > longest:
            raise ValueError(f"line {number}: a line must have at most {longest} bytes")
        if not line.strip():
            continue
        try:
            group.append(parse_document(line))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        size += len(line)
        if len(group) == GROUP or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


async def _lines(chunks: AsyncIterator[bytes], longest: int) -> AsyncIterator[bytes]:
    """Lines without their ends; the last may be the beginning of one longer than `longest`."""
    rest = bytearray()
    async for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest += first
        for line in others:
            yield bytes(rest)
            rest = bytearray(line)
        if len(rest) > longest:
            break
    if rest:
        yield bytes(rest)
