"""An index counts, stores and reports how much of its documents the models did not read."""

import json

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from typer.testing import CliRunner

from lsr.building.build import add_documents, build_index, delete_documents
from lsr.building.live import open_live
from lsr.building.truncation import Truncation, of_commit, percent
from lsr.cli import app
from lsr.corpus.corpus import open_corpus
from lsr.encoders.masked_lm import MaskedLMEncoder
from lsr.encoders.truncation import Length


def lsr(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def encoder(short_sighted):
    return short_sighted


@pytest.fixture(scope="module")
def dense(encoder, tmp_path_factory):
    """A bi-encoder on the same trunk, which reads 6 tokens: 4 of the text, 2 special."""
    trunk = Transformer(encoder)
    trunk.max_seq_length = 6
    path = tmp_path_factory.mktemp("dense") / "model"
    model = SentenceTransformer(modules=[trunk, Pooling(16)], similarity_fn_name="cosine")
    model.save(str(path), create_model_card=False)
    return str(path)


def write_corpus(path, lengths, first=0):
    """Write documents d0, d1, … with these numbers of words."""
    lines = (
        {"_id": f"d{first + n}", "text": " ".join(f"w{(n + place) % 40}" for place in range(words))}
        for n, words in enumerate(lengths)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return open_corpus(path)


def counted(directory):
    with open_live(directory) as live:
        return of_commit(live.index.user_data)


def test_a_build_says_what_was_not_read_on_both_sides(encoder, dense, tmp_path):
    corpus = write_corpus(tmp_path / "corpus.jsonl", [3, 8, 9, 20])
    result = lsr("index", corpus.name, "--out", tmp_path / "index", "--encoder", encoder)
    assert result.exit_code == 0, result.output
    assert (
        f"2 of 4 documents are longer than the 10 tokens that encoder {encoder!r} reads: "
        "32 % of all tokens were not read\n"
    ) in result.stderr
    assert counted(tmp_path / "index") == {"sparse": Truncation(10, 4, 2, 40, 13)}
    build = build_index(corpus, tmp_path / "both", encoder, dense=dense)
    assert [notice.partition(":")[0] for notice in build.notices] == [
        f"2 of 4 documents are longer than the 10 tokens that encoder {encoder!r} reads",
        f"3 of 4 documents are longer than the 6 tokens that dense model {dense!r} reads",
    ]
    assert counted(tmp_path / "both")["dense"] == Truncation(6, 4, 3, 40, 4 + 5 + 16)


def test_nothing_is_said_where_everything_was_read(encoder, tmp_path):
    corpus = write_corpus(tmp_path / "corpus.jsonl", [1, 8])
    assert build_index(corpus, tmp_path / "index", encoder).notices == ()
    expected = f"none of 2 documents is longer than the 10 tokens that encoder {encoder!r} reads\n"
    assert expected in lsr("doctor", tmp_path / "index").stdout
    long = write_corpus(tmp_path / "long.jsonl", [5000])
    assert build_index(long, tmp_path / "lexical", "lexical").notices == ()
    assert "tokens" not in lsr("doctor", tmp_path / "lexical").stdout


def test_a_build_that_was_killed_counts_as_one_that_was_not(
    encoder, tmp_path, monkeypatch, small_steps
):
    corpus = write_corpus(tmp_path / "corpus.jsonl", [4, 9] * 20)
    whole = build_index(corpus, tmp_path / "whole", encoder)
    real, calls = MaskedLMEncoder.encode_documents, iter(range(1000))

    def killed(self, *arguments):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MaskedLMEncoder, "encode_documents", killed)
        with pytest.raises(KeyboardInterrupt):
            build_index(corpus, tmp_path / "index", encoder)
    resumed = build_index(corpus, tmp_path / "index", encoder)
    assert (resumed.n_documents, resumed.notices) == (20, whole.notices)
    assert counted(tmp_path / "index") == counted(tmp_path / "whole")
    assert counted(tmp_path / "index") == {"sparse": Truncation(10, 40, 20, 260, 20)}


def test_additions_say_their_own_and_doctor_says_what_is_counted(encoder, tmp_path):
    index = tmp_path / "index"
    build_index(write_corpus(tmp_path / "corpus.jsonl", [4, 9]), index, encoder)
    (notice,) = add_documents(write_corpus(tmp_path / "more.jsonl", [16, 2], 2), index).notices
    assert notice.startswith("1 of 2 documents is longer than the 10 tokens that encoder")
    assert notice.endswith(": 44 % of all tokens were not read")
    assert counted(index) == {"sparse": Truncation(10, 4, 2, 31, 9)}
    shown = lsr("doctor", index).stdout
    assert "  2 of 4 documents are longer than the 10 tokens" in shown
    assert "are counted too" not in shown
    delete_documents(index, ["d3"])
    assert counted(index) == {"sparse": Truncation(10, 4, 2, 31, 9)}
    shown = lsr("doctor", index).stdout
    assert "  (documents that were replaced or deleted since are counted too)" in shown


def test_an_index_of_an_older_version_is_said_to_be_one(encoder, tmp_path, monkeypatch):
    index = tmp_path / "index"
    with monkeypatch.context() as patch:
        patch.setattr("lsr.building.writer.of_commit", lambda user_data: {})
        patch.setattr("lsr.building.writer.KEY", "unknown")
        build_index(write_corpus(tmp_path / "corpus.jsonl", [4, 9]), index, encoder)
    assert counted(index) == {}
    assert "how many documents are cut is not known" in lsr("doctor", index).stdout
    add_documents(write_corpus(tmp_path / "more.jsonl", [16], 2), index)
    shown = lsr("doctor", index).stdout
    assert "  1 of 1 documents is longer" in shown
    assert "(documents that an older version of lsr added are not counted)" in shown


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.31415, "31 %"), (0.0999, "10.0 %"), (0.0031, "0.3 %"), (0.0004, "less than 0.1 %")]
    + [(1.0, "100 %")],
)
def test_shares_in_words(share, text):
    assert percent(share) == text


def test_the_head_of_the_grafted_encoder_is_named():
    from lsr.building.truncation import sentences

    found = Truncation(256).and_of(256, [Length(508, 254), Length(0, 0)])
    assert sentences({"sparse": found}, "grafted", None, quiet=True) == [
        "1 of 2 documents is longer than the 256 tokens that the head of encoder 'grafted' reads: "
        "50 % of all tokens were not read"
    ]
