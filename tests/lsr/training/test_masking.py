"""lsr/training/masking.py: masks and spans, where they come from, and that they repeat by seed."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lsr.encoders.load import default_tokenizer
from lsr.training.masking import (
    IGNORED,
    SHORTEST_SPAN,
    WINDOW,
    Chunks,
    Frame,
    Masker,
    SpanPairs,
    Stream,
    Tokens,
    tokenize,
)

CLS, SEP, MASK, PAD = 101, 102, 103, 0


@pytest.fixture(scope="module")
def tokenizer():
    return default_tokenizer()


@pytest.fixture(scope="module")
def bare_tokenizer():
    """A tokenizer that adds nothing to texts, and has no special token except for padding."""
    words = {word: i for i, word in enumerate(["[PAD]", "_", *(f"w{i}" for i in range(50))])}
    backend = Tokenizer(models.WordLevel(words, unk_token="_"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")


def tokens_of_lengths(*lengths):
    """Texts of ids 1000, 1001, …: each id occurs only once."""
    return Tokens(np.arange(1000, 1000 + sum(lengths), dtype=np.int32), np.cumsum([0, *lengths]))


def examples(source, total, batch=1, seed=0):
    stream = Stream(source, total, batch, seed)
    return [stream[number] for number in range(total)]


class TestTokenize:
    def test_ids_are_the_tokenizer_s_and_texts_without_tokens_are_left_out(self, tokenizer):
        texts = ["Heat transfer in a pipe.", "", "wing " * 700, "  ", "slipstreams"]
        tokens = tokenize(tokenizer, iter(texts))
        expected = [
            tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            for text in texts
            if text.strip()
        ]
        assert np.diff(tokens.bounds).tolist() == [len(row) for row in expected]
        assert tokens.ids.tolist() == sum(expected, [])
        assert tokens.ids.dtype == np.int32
        assert tokens.starts is None

    def test_words_start_where_no_wordpiece_goes_on(self, tokenizer):
        tokens = tokenize(tokenizer, ["slipstreams of aerofoils", "[MASK][MASK] x"], words=True)
        pieces = tokenizer.convert_ids_to_tokens(tokens.ids)
        assert any(piece.startswith("##") for piece in pieces)
        assert tokens.starts.tolist() == [not piece.startswith("##") for piece in pieces]

    def test_texts_without_any_token_are_refused(self, tokenizer):
        for texts in ([], ["", " "]):
            with pytest.raises(ValueError, match="the texts to pretrain on hold no token"):
                tokenize(tokenizer, texts)

    def test_the_digest_knows_ids_and_where_texts_end(self):
        kinds = [([1, 2, 3], [0, 1, 3]), ([1, 2, 3], [0, 2, 3]), ([1, 2, 4], [0, 1, 3])]
        tokens = [Tokens(np.array(ids, np.int32), np.array(bounds)) for ids, bounds in kinds]
        assert len({these.digest for these in tokens}) == 3


class TestChunks:
    @pytest.mark.parametrize("longest", [1, 3, 7, 100])
    def test_parts_hold_each_token_once_and_are_as_few_and_as_like_as_can_be(self, longest):
        lengths = [1, 7, 8, 20, 3, 100]
        tokens = tokens_of_lengths(*lengths)
        chunks = Chunks(tokens, longest)
        rng = np.random.default_rng(0)
        parts = [chunks.spans(row, rng) for row in range(len(chunks.lengths))]
        assert all(len(part) == 1 for part in parts)
        found = [tokens.ids[part[0]].tolist() for part in parts]
        assert sum(found, []) == tokens.ids.tolist()
        assert [len(row) for row in found] == chunks.lengths.tolist()
        at = 0
        for text, length in enumerate(lengths):
            n = -(-length // longest)
            own = found[at : at + n]
            at += n
            assert own[0][0] == 1000 + tokens.bounds[text]
            assert own[-1][-1] == 1000 + tokens.bounds[text + 1] - 1
            assert max(map(len, own)) <= longest
            assert max(map(len, own)) - min(map(len, own)) <= 1
        assert at == len(found)


class TestSpanPairs:
    def test_both_are_parts_of_one_text_that_do_not_overlap(self):
        lengths = [2 * SHORTEST_SPAN, 40, 3, 300, 2 * SHORTEST_SPAN - 1]
        tokens = tokens_of_lengths(*lengths)
        pairs = SpanPairs(tokens, 25)
        assert pairs.lengths.tolist() == [8, 40, 300]
        rng = np.random.default_rng(0)
        seen = {0: set(), 1: set(), 2: set()}
        for row, text in enumerate([0, 1, 3]):
            for _ in range(400):
                first, second = pairs.spans(row, rng)
                assert tokens.bounds[text] <= first.start < first.stop <= second.start
                assert second.start < second.stop <= tokens.bounds[text + 1]
                for span in (first, second):
                    assert SHORTEST_SPAN <= span.stop - span.start <= 25
                    seen[row] |= set(range(span.start, span.stop))
            # Every token is in some span.
            assert len(seen[row]) == lengths[text]

    def test_no_side_of_a_long_text_is_shorter_than_a_quarter(self):
        pairs = SpanPairs(tokens_of_lengths(100, 100), 100)
        rng = np.random.default_rng(0)
        lengths = [s.stop - s.start for _ in range(500) for s in pairs.spans(0, rng)]
        assert (min(lengths), max(lengths)) == (25, 75)

    @pytest.mark.parametrize("lengths", [(3, 4), (50, 7)])
    def test_texts_too_short_are_refused(self, lengths):
        fits = sum(length >= 8 for length in lengths)
        with pytest.raises(
            ValueError, match=f"at least 2 texts of 8 tokens or more, got {fits} of 2 texts"
        ):
            SpanPairs(tokens_of_lengths(*lengths), 25)


class TestStream:
    def rows(self, source, total, batch, seed=0):
        """The row of each example, found by its start."""
        starts = [int(source.spans(row, None)[0].start) for row in range(len(source.lengths))]
        return [starts.index(e["spans"][0].start) for e in examples(source, total, batch, seed)]

    def test_an_epoch_has_each_example_once_and_its_own_order(self):
        source = Chunks(tokens_of_lengths(*np.arange(12) % 5 + 1), 10)
        rows = self.rows(source, 36, 4)
        epochs = [rows[start : start + 12] for start in (0, 12, 24)]
        assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 3
        assert self.rows(source, 36, 4, seed=1) != rows
        assert self.rows(source, 36, 4) == rows

    def test_what_does_not_fill_a_batch_waits_and_no_batch_has_an_example_twice(self):
        rows = self.rows(Chunks(tokens_of_lengths(*[3] * 10), 10), 400, 4)
        for start in range(0, 400, 4):
            assert len(set(rows[start : start + 4])) == 4
        counts = np.bincount(rows, minlength=10)
        assert counts.min() > 25 and counts.max() <= 50

    def test_fewer_examples_than_a_batch_are_repeated(self):
        rows = self.rows(Chunks(tokens_of_lengths(3, 3, 3), 10), 16, 8)
        assert all(sorted(rows[s : s + 8])[i] == i * 3 // 8 for s in (0, 8) for i in (0, 7))

    def test_lengths_in_a_batch_are_alike_and_batches_in_no_order_of_length(self):
        generator = np.random.default_rng(0)
        source = Chunks(tokens_of_lengths(*generator.integers(1, 101, 2 * WINDOW * 4)), 100)
        stream = Stream(source, 2 * WINDOW * 4, 4, 0)
        lengths = np.array([e["spans"][0].stop - e["spans"][0].start for e in stream])
        batches = lengths.reshape(-1, 4)
        padding = 1 - lengths.sum() / (batches.max(1).sum() * 4)
        assert padding < 0.02
        assert abs(np.corrcoef(np.arange(len(batches)), batches.mean(1))[0, 1]) < 0.3

    def test_any_example_is_the_same_whatever_was_read_before(self):
        source = SpanPairs(tokens_of_lengths(*range(20, 60)), 12)
        inorder = examples(source, 120, 8)
        stream = Stream(source, 120, 8, 0)
        assert len(stream) == 120
        for number in (119, 3, 40, 39):
            assert stream[number] == inorder[number]


class TestFrame:
    def test_it_is_what_the_tokenizer_puts_around_texts(self, tokenizer, bare_tokenizer):
        assert Frame.of(tokenizer) == ([CLS], [SEP])
        assert Frame.of(bare_tokenizer) == ([], [])

    def test_a_beginning_alone(self, bare_tokenizer):
        backend = Tokenizer.from_str(bare_tokenizer.backend_tokenizer.to_str())
        backend.post_processor = processors.TemplateProcessing(
            single="w1 $A", special_tokens=[("w1", 3)]
        )
        assert Frame.of(PreTrainedTokenizerFast(tokenizer_object=backend)) == ([3], [])


class TestMasker:
    def test_shares_are_bert_s_and_special_tokens_are_never_chosen(self, tokenizer):
        # [SEP] spelled out in a text is a special token too.
        tokens = tokenize(tokenizer, ["heat transfer [SEP] in a pipe " * 20] * 300)
        masker = Masker(tokenizer, tokens, share=0.15, mask_token="[MASK]")
        batch = masker(examples(Chunks(tokens, 50), 600))
        ids, labels, mask = (batch[name] for name in ("input_ids", "labels", "attention_mask"))
        assert ids.shape == labels.shape == mask.shape
        assert {t.dtype for t in (ids, labels, mask)} == {torch.int64}
        chosen = labels != IGNORED
        original = torch.where(chosen, labels, ids)
        special = torch.isin(original, torch.tensor([CLS, SEP, PAD, MASK]))
        assert not (chosen & special).any()
        assert (original == SEP).sum() > 2 * len(ids)
        n = int((~special).sum())
        share = int(chosen.sum()) / n
        assert abs(share - 0.15) < 4 * (0.15 * 0.85 / n) ** 0.5
        n = int(chosen.sum())
        kinds = {
            0.8: (ids == MASK) & chosen,
            # Some random tokens are the original by chance.
            0.1 + 0.1 / len(tokenizer): (ids == labels),
            0.1 - 0.1 / len(tokenizer): (ids != MASK) & (ids != labels) & chosen,
        }
        for expected, found in kinds.items():
            assert abs(int(found.sum()) / n - expected) < 4 * (expected * (1 - expected) / n) ** 0.5

    def test_texts_are_framed_and_padded_and_what_is_not_chosen_stays(self, tokenizer):
        texts = ["heat transfer", "a pipe with a wing on top"]
        tokens = tokenize(tokenizer, texts)
        batch = Masker(tokenizer, tokens, share=0.5, mask_token="[MASK]", always_mask=True)(
            [{"number": 0, "spans": [slice(0, 2)]}, {"number": 1, "spans": [slice(2, 9)]}]
        )
        expected = tokenizer(texts, padding=True, return_tensors="pt")
        chosen = batch["labels"] != IGNORED
        assert 0 < chosen.sum() < 9
        assert torch.equal(
            torch.where(chosen, batch["labels"], batch["input_ids"]), expected["input_ids"]
        )
        assert torch.equal(batch["attention_mask"], expected["attention_mask"])
        assert (batch["input_ids"][chosen] == MASK).all()

    def test_spans_of_an_example_are_rows_beside_each_other(self, tokenizer):
        tokens = tokens_of_lengths(*range(20, 60))
        drawn = examples(SpanPairs(tokens, 12), 8, 8)
        masker = Masker(tokenizer, tokens, share=0.15, mask_token="[MASK]")
        batch = masker(drawn)
        ids = torch.where(batch["labels"] != IGNORED, batch["labels"], batch["input_ids"])
        assert len(ids) == 16
        for row, span in enumerate(span for example in drawn for span in example["spans"]):
            length = span.stop - span.start
            assert ids[row, 1 : 1 + length].tolist() == tokens.ids[span].tolist()
            assert batch["attention_mask"][row].sum() == length + 2

    def test_masks_depend_on_seed_and_number_alone(self, tokenizer):
        tokens = tokens_of_lengths(*[60] * 8)
        chunks = Chunks(tokens, 60)

        def labels(seed, *numbers):
            masker = Masker(tokenizer, tokens, share=0.3, mask_token="[MASK]", seed=seed)
            stream = Stream(chunks, 16, 2, 0)
            torch.manual_seed(len(numbers))  # the global random state has no effect
            return [masker([stream[n], stream[n + 1]])["labels"] for n in numbers]

        first, second, third = labels(0, 0, 2, 4)
        assert torch.equal(labels(0, 2)[0], second)
        assert not torch.equal(labels(1, 2)[0], second)
        # The same example in another epoch gets another mask.
        masker = Masker(tokenizer, tokens, share=0.3, mask_token="[MASK]")
        spans = [slice(0, 60)]
        a, b = (masker([{"number": n, "spans": spans}])["labels"] for n in (0, 8))
        assert not torch.equal(a, b)

    def test_whole_words_are_masked_or_left(self, tokenizer):
        text = "aerofoils slipstreams turbulence heat thermoelasticity pipe of "
        tokens = tokenize(tokenizer, [text * 6] * 100, words=True)
        masker = Masker(tokenizer, tokens, share=0.2, mask_token="[MASK]")
        # Chunks of 31 tokens begin and end within words.
        batch = masker(examples(Chunks(tokens, 31), 400))
        chosen = batch["labels"] != IGNORED
        ids = torch.where(chosen, batch["labels"], batch["input_ids"])
        assert (batch["input_ids"][chosen] == MASK).all()
        words = picked = partly = 0
        for row, marks in zip(ids.tolist(), chosen.tolist(), strict=True):
            pieces = tokenizer.convert_ids_to_tokens(row)
            groups = []
            for i, (piece, mark) in enumerate(zip(pieces, marks, strict=True)):
                if piece in ("[CLS]", "[SEP]", "[PAD]"):
                    assert not mark
                elif piece.startswith("##") and pieces[i - 1] != "[CLS]":
                    groups[-1].append(mark)
                else:
                    groups.append([mark])
            words += len(groups)
            picked += sum(all(group) for group in groups)
            partly += sum(any(group) and not all(group) for group in groups)
        assert partly == 0
        assert abs(picked / words - 0.2) < 4 * (0.2 * 0.8 / words) ** 0.5

    def test_whole_words_without_special_tokens_around(self, bare_tokenizer):
        # If all words are single tokens, masking words is masking tokens.
        tokens = tokenize(bare_tokenizer, ["w1 w2 w3 w4 w5"] * 200, words=True)
        masker = Masker(bare_tokenizer, tokens, share=0.5, mask_token="_")
        chosen = masker(examples(Chunks(tokens, 10), 200))["labels"] != IGNORED
        assert abs(chosen.double().mean() - 0.5) < 4 * (0.25 / 1000) ** 0.5
        assert chosen.any(0).all()

    def test_next_token_prediction_masks_no_token_that_nothing_precedes(self, bare_tokenizer):
        tokens = tokenize(bare_tokenizer, ["w1 w2 w3 w4 w5"] * 50 + ["w6 w7"] * 50)
        masker = Masker(
            bare_tokenizer, tokens, share=0.5, mask_token="_", always_mask=True, next_token=True
        )
        batch = masker(examples(Chunks(tokens, 10), 100))
        chosen = batch["labels"] != IGNORED
        assert not chosen[:, 0].any()
        assert chosen[:, 1].any() and chosen[:, 4].any()
        assert (batch["input_ids"][chosen] == bare_tokenizer.convert_tokens_to_ids("_")).all()
        # The tokenizer itself was not given a mask token.
        assert bare_tokenizer.mask_token is None
        without = Masker(bare_tokenizer, tokens, share=0.5, mask_token="_", always_mask=True)
        assert (without(examples(Chunks(tokens, 10), 100))["labels"][:, 0] != IGNORED).any()
