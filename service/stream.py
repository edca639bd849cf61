"""Reads documents from an NDJSON stream, a group at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

from lsr.corpus.records import parse_document
from lsr.documents import Document

GROUP = 256
GROUP_BYTES = 2**22


async def read_documents(
    chunks: AsyncIterator[bytes], longest: int
) -> AsyncIterator[list[Document]]:
    """Yield groups of documents in order. The next group is read only when it is asked for.

    Args:
        chunks: the stream, in chunks that may end anywhere in a line.
        longest: bytes of a line at most.

    Raises:
        ValueError: a line cannot be used: ``line N: why``. Documents before it that were not yet
            yielded in a group are lost.
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
    """Yield lines without line ends; of a line longer than `longest`, only the beginning."""
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
