"""What a search service answers: one set of models for the service and its client."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from lsr.documents import MetadataValue

Metadata = dict[str, MetadataValue | list[MetadataValue]]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class State(_Answer):
    """What an answer was made from: answers of one state agree with each other."""

    index: str = Field(description="the index's name")
    generation: int = Field(description="rises with every build")
    commit: int = Field(description="rises with every change within a generation")


class IndexState(State):
    """An index as it is now."""

    documents: int
    terms: int = Field(description="size of the vocabulary")
    encoder: str
    dense: str | None = Field(description="the dense side's model; null without one")
    language: str = Field(description="whose analyzer makes the words")
    sides: list[str] = Field(
        description="words, learned and dense, as the index has them: the modes that it answers, "
        "besides sparse, and hybrid where it has dense"
    )
    mode: str = Field(description="of a search by a text that names none")
    metadata: dict[str, list[str]] = Field(
        description="the keys of documents' metadata, and the types of their values: string, "
        "integer, float, boolean, date; filters take them. Those of deleted documents alone go "
        "when Lucene merges these away"
    )


class Indexes(_Answer):
    """All indexes of a service."""

    indexes: list[IndexState]


class Acknowledgement(State):
    """Documents are durable, and searches see them, once this arrives."""

    documents: int = Field(description="that were written, changed or deleted")


class Mark(_Answer):
    """A word of a text that the query matches."""

    start: int = Field(description="in characters (Unicode code points)")
    end: int
    term: str
    literal: bool = Field(description="the query's own word; else found through its expansion")


class Marked(_Answer):
    """A text with the words that the query matches."""

    text: str
    marks: list[Mark]


class Term(_Answer):
    """What one term or word added to the score of a side."""

    term: str
    query_weight: float
    document_weight: float
    contribution: float = Field(description="query weight × document weight")
    share: float = Field(description="of the side's score, in [0, 1]")
    literal_in_query: bool
    literal_in_document: bool
    from_feedback: bool
    field: str = Field(
        description="learned: a term of the encoder; words: a word of title and text; title: a "
        "word of the title, in addition"
    )


class SideScore(_Answer):
    """What one side added to a score."""

    side: str = Field(description="words, learned, sparse (both in one pass) or dense")
    share: float = Field(description="of the document's score, after normalisation and α")
    score: float = Field(description="of the side itself")


class Boosted(_Answer):
    """What one boost added to a score."""

    key: str
    form: str
    values: list[MetadataValue] = Field(description="of the document under the key")
    addend: float


class Why(_Answer):
    """Why a document has its score: the sum of its sides' shares and of its boosts' addends."""

    score: float
    sides: list[SideScore]
    terms: list[Term] = Field(
        description="of each side, largest contribution first; they sum to its score"
    )
    boosts: list[Boosted] = Field(default_factory=list, description="those asked for")


class StoredDocument(_Answer):
    """A document as the index keeps it."""

    id: str
    title: str
    text: str
    metadata: Metadata


class Reranked(_Answer):
    """What a cross-encoder made of a hit: it changes the order, not the score."""

    model: str
    score: float = Field(description="the model's")
    rank: int = Field(description="from 1, before it")


class AnswerHit(_Answer):
    """One hit."""

    id: str
    score: float
    title: str
    text: str | None = None
    metadata: Metadata
    group: MetadataValue | None = Field(
        default=None,
        description="the value that the hits of its group share; null where no groups were asked "
        "for, and for a document without the key, which is its own group",
    )
    rerank: Reranked | None = Field(
        default=None, description="what the cross-encoder made of it, if it was asked for"
    )
    snippet: Marked | None = Field(default=None, description="if asked for")
    why: Why | None = Field(default=None, description="if asked for")


class FacetValue(_Answer):
    """A value of metadata."""

    value: MetadataValue
    documents: int = Field(description="that pass the filter and have it")


class FacetRange(_Answer):
    """A range of values of metadata."""

    range: str = Field(description="as a filter has it: KEY = RANGE")
    documents: int = Field(description="that pass the filter and have a value in it")


class FacetCounts(_Answer):
    """What was counted for one facet, among all documents that pass the filter."""

    key: str
    documents: int = Field(description="that pass the filter and have the key")
    values: list[FacetValue] = Field(
        description="most frequent first, ties ascending; empty where ranges were asked for"
    )
    others: int = Field(description="different values beyond these")
    ranges: list[FacetRange] = Field(description="in the order in which they were asked for")


class Answer(_Answer):
    """The hits of one request."""

    state: State
    mode: str = Field(description="the request's, or the one that it has by default")
    hits: list[AnswerHit]
    total: int = Field(
        description="documents that pass the filter and what the operators of the text demand and "
        "exclude: all of the index without either. Other words and terms do not lower it: learned "
        "terms match nearly every document, and decide the order alone"
    )
    facets: list[FacetCounts] = Field(description="those asked for, in their order")
    cursor: str | None = Field(description="asks for the hits that follow; null at the end")
    approximate: list[str] = Field(description="why documents may lack; empty where exact")
    notices: list[str] = Field(
        default_factory=list, description="what of the query was not read, or is not known"
    )
    took_ms: float


class Answers(_Answer):
    """The answers of a batch, all of one state."""

    answers: list[Answer]


class ExplainedDocument(_Answer):
    """A document and why it has its score."""

    state: State
    document: StoredDocument
    why: Why
    marked: Marked = Field(description="the whole text")
    notices: list[str] = Field(
        default_factory=list, description="what of query and document was not read"
    )


class QueryTerm(_Answer):
    """One term of a query as the index is searched."""

    term: str
    weight: float
    literal: bool = Field(description="the query's own token; else an expansion")
    from_feedback: bool


class Expansion(_Answer):
    """A query's terms, heaviest first."""

    state: State
    terms: list[QueryTerm]


class Problem(_Answer):
    """Why a request was not answered."""

    error: str
    request_id: str
