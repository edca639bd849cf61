from collections import Counter
from pathlib import Path

import pytest

from lsr.corpus.corpus import open_corpus
from lsr.documents import Document
from lsr.encoders.lexical import LexicalEncoder
from lsr.encoders.load import default_tokenizer
from lsr.training.pseudo import pseudo_queries

SHARED = Path(__file__).parents[4] / "shared" / "data"
CORPUS = [
    Document(
        "heat", "Heat", "Heat flows through a plate of steel. The flow of heat is of the heat."
    ),
    Document("cat", "", "The small cat sat on the woven mat, purring. Its owner slept beside it."),
    Document("long", "A title", " ".join(f"word{number}" for number in range(60))),
    Document("tiny", "", "Too short."),
    Document("same", "Only this here", "Only this here"),
    Document("empty"),
    Document("lines", "", "a first line of some words\nanother line of other words\n\nlast"),
]


def fitted(corpus):
    return LexicalEncoder.fit(default_tokenizer(), [[document.content for document in corpus]])


@pytest.fixture(scope="module")
def lexical():
    return fitted(CORPUS)


def of(examples, doc_id):
    return [row for row in examples.rows if row.positive == doc_id]


@pytest.mark.parametrize("seed", range(5))
def test_queries_are_words_of_their_document_in_a_row(lexical, seed):
    examples = pseudo_queries(CORPUS, lexical, per_document=4, seed=seed)
    assert list(examples.documents) == [document.id for document in CORPUS]
    assert {row.positive for row in examples.rows} == {"heat", "cat", "long", "lines"}
    ids = [row.query_id for row in examples.rows]
    assert len(set(ids)) == len(ids) and ids[0] == "heat/0"
    counts = Counter(row.positive for row in examples.rows)
    assert max(counts.values()) == 4
    for row in examples.rows:
        assert row.query in " ".join(examples.documents[row.positive].split())
        assert len(row.query.split()) <= 16
    assert len({row.query.casefold() for row in examples.rows}) == len(examples)


def test_title_is_the_first_query_unless_it_is_the_text(lexical):
    examples = pseudo_queries(CORPUS, lexical, kinds=["title"], removed=1.0)
    assert [(row.query_id, row.query) for row in examples.rows] == [
        ("heat/0", "Heat"),
        ("long/0", "A title"),
    ]
    assert examples.texts(examples.rows[0]) == [CORPUS[0].text]


def test_sentences_begin_where_theirs_does_and_spans_anywhere(lexical):
    sentences = [
        row.query.split()[0]
        for seed in range(30)
        for row in of(pseudo_queries(CORPUS, lexical, kinds=["sentence"], seed=seed), "long")
    ]
    assert set(sentences) == {"word0"}
    spans = [
        row.query.split()
        for seed in range(30)
        for row in of(pseudo_queries(CORPUS, lexical, kinds=["span"], seed=seed), "long")
    ]
    assert len({words[0] for words in spans}) > 20
    assert {len(words) for words in spans} == set(range(4, 17))


def test_informative_sentences_and_no_others(lexical):
    # One of two sentences is the better half; "heat", "of" and "the" weigh less than "plate".
    first = {
        row.query
        for seed in range(20)
        for row in of(pseudo_queries(CORPUS, lexical, kinds=["sentence"], seed=seed), "heat")
    }
    assert len(first) > 1
    assert all("Heat flows through a plate of steel".startswith(query) for query in first)
    spans = [
        row.query
        for seed in range(20)
        for row in of(pseudo_queries(CORPUS, lexical, kinds=["span"], seed=seed), "cat")
    ]
    assert any("owner" in query for query in spans) and any("woven" in query for query in spans)


def test_sentences_end_at_marks_and_lines_not_within_abbreviations():
    text = "Use a filter, e.g. one of median width. Others work as well\nNoise has gone then now"
    corpus = [Document("a", "", text), Document("b", "", "something else entirely different here")]
    lexical = fitted(corpus)
    queries = [
        row.query
        for seed in range(40)
        for row in of(pseudo_queries(corpus, lexical, seed=seed), "a")
    ]
    assert any("e.g. one" in query for query in queries)
    assert not any("width. Others" in query or "well Noise" in query for query in queries)


def test_common_words_and_punctuation_are_cut_off_at_the_ends():
    words = sorted(term for term in default_tokenizer().get_vocab() if len(term) > 8)
    whole = [word for word in words if word.isalpha()][:60]
    corpus = [Document(word, "", f"of the {word}, of the") for word in whole]
    corpus.append(Document("x", "", '"the zebra of the savanna: runs", of the'))
    (row,) = of(pseudo_queries(corpus, fitted(corpus), per_document=1, kinds=["sentence"]), "x")
    assert row.query in ("zebra of the savanna: runs", "zebra of the savanna")
    # Only single words are left of the other documents.
    examples = pseudo_queries(corpus, fitted(corpus))
    assert {row.positive for row in examples.rows} == {"x"}


def test_passage_is_taken_out_for_a_share(lexical):
    kept = pseudo_queries(CORPUS, lexical, removed=0.0)
    assert all(row.removed == "" for row in kept.rows)
    taken = pseudo_queries(CORPUS, lexical, removed=1.0)
    # The share of removed passages changes nothing else.
    assert [row._replace(removed="") for row in taken.rows] == kept.rows
    for row in taken.rows:
        (text,) = taken.texts(row)
        whole = taken.documents[row.positive]
        assert row.query in " ".join(row.removed.split())
        before, after = whole.split(row.removed, 1)
        assert text == (before + after).strip() != ""
    half = [
        row
        for seed in range(40)
        for row in pseudo_queries(CORPUS, lexical, removed=0.5, seed=seed).rows
    ]
    assert 0.4 < sum(row.removed != "" for row in half) / len(half) < 0.6
    only = [Document("one", "", "one sentence of a few words"), Document("b", "", "x y z")]
    examples = pseudo_queries(only, fitted(only), kinds=["sentence"], removed=1.0)
    assert examples.rows and all(row.removed == "" for row in examples.rows)


def test_equal_queries_stay_with_the_first_document():
    text = "All rights reserved worldwide"
    corpus = [Document(str(n), "Same title", text.upper() if n else text) for n in range(3)]
    corpus.append(Document("other", "", "nothing of the kind"))
    examples = pseudo_queries(corpus, fitted(corpus), kinds=["title"])
    assert [row.positive for row in examples.rows] == ["0"]
    examples = pseudo_queries(corpus, fitted(corpus), kinds=["sentence"])
    folded = [row.query.casefold() for row in examples.rows]
    assert len(set(folded)) == len(folded)


def test_what_is_made_of_a_document_depends_on_its_id_and_the_seed(lexical):
    first = pseudo_queries(CORPUS, lexical, seed=3)
    assert pseudo_queries(CORPUS, lexical, seed=3).rows == first.rows
    assert pseudo_queries(CORPUS, lexical, seed=4).rows != first.rows
    some = pseudo_queries(CORPUS[2:], lexical, seed=3)
    assert some.rows == [row for row in first.rows if row.positive not in ("heat", "cat")]


def test_refuses(lexical):
    with pytest.raises(ValueError, match="`per_document` must be at least 1, got 0"):
        pseudo_queries(CORPUS, lexical, per_document=0)
    with pytest.raises(ValueError, match=r"`removed` must be in \[0, 1\], got 1\.5"):
        pseudo_queries(CORPUS, lexical, removed=1.5)
    for kinds in (["title", "question"], []):
        with pytest.raises(ValueError, match="`kinds` must be of title, sentence and span, got"):
            pseudo_queries(CORPUS, lexical, kinds=kinds)


def test_short_texts_and_texts_without_spaces_give_no_rows(lexical):
    corpus = [CORPUS[3], Document("zh", "", "感冒通常由病毒引起，多休息，多喝水。")]
    examples = pseudo_queries(corpus, lexical)
    assert examples.rows == [] and len(examples.documents) == 2


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development collections in {SHARED}")
def test_nearly_all_documents_of_a_real_collection_give_all_their_queries():
    corpus = open_corpus(SHARED / "nfcorpus")
    examples = pseudo_queries(corpus, fitted(list(corpus)), per_document=2)
    assert len(examples.documents) == 3395
    assert len(examples) > 1.95 * 3395
