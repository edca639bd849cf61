"""Learned sparse retrieval: texts to sparse vectors to a Lucene index to answers with reasons."""

__version__ = "0.1.0"
