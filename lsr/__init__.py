"""Learned sparse retrieval: texts to sparse vectors to a Lucene index to answers with reasons."""

from typing import Any

__version__ = "0.1.0"


def fuse(model: Any) -> Any:
    """Make a stock sentence-transformers SPLADE compute its vectors by the fused head, in place.

    See `lsr.encoders.fuse.fuse`.
    """
    from lsr.encoders.fuse import fuse

    return fuse(model)
