"""lsr/encoders/decoder_modules.py compared with logits of plain transformers, text by text."""

import pytest
import torch
from sentence_transformers import SparseEncoder
from transformers import AutoModelForCausalLM

from lsr.encoders.decoder_modules import Decoder, DecoderPooling

KINDS = ["Llama", "Mistral", "Qwen2", "Qwen3"]
ATTENTIONS = ["causal", "bidirectional", "echo"]
SPECIAL = [0, 1, 2]


def modules(path, attention="causal", max_length=24, **pooling):
    decoder = Decoder(path, attention=attention, max_seq_length=max_length).eval()
    decoder.tokenizer.pad_token = "</s>"
    terms = len(decoder.tokenizer)
    return decoder, DecoderPooling(terms, silent=SPECIAL, **pooling).eval()


def vectors(decoder, pooling, texts, **given):
    features = decoder.preprocess(texts, **given)
    return pooling(decoder(features))["sentence_embedding"]


def activated(logits, activation):
    values = torch.log1p(torch.relu(logits))
    return values if activation == "relu" else torch.log1p(values)


@torch.no_grad()
def slow_vector(model, tokenizer, text, attention, activation="relu", pooling="max", length=24):
    """Pool plain logits; "bidirectional" passes an attention mask that hides nothing."""
    ids = tokenizer(text, truncation=True, max_length=length)["input_ids"]
    own = [position for position, id_ in enumerate(ids) if id_ not in (0, 1)]
    if attention == "echo":
        content = [ids[position] for position in own]
        start = 1 if ids[0] == 0 else 0
        ids = ids[:start] + content + content + ids[start + len(content) :]
        own = [start + len(content) + position for position in range(len(content))]
    shown = {}
    if attention == "bidirectional":
        shown["attention_mask"] = torch.zeros(1, 1, len(ids), len(ids))
    logits = model(input_ids=torch.tensor([ids]), use_cache=False, **shown).logits[0]
    values = activated(logits[own, : len(tokenizer)], activation)
    vector = values.sum(0) if pooling == "sum" else values.amax(0)
    vector[SPECIAL] = 0
    return vector


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("template", "activation", "pooling"),
    [("<s> $A", "relu", "max"), ("<s> $A </s>", "log1p_relu", "sum"), ("$A", "relu", "max")],
)
def test_vectors_equal_those_of_plain_logits(
    kind, attention, template, activation, pooling, save_decoder, sentences
):
    tied = kind in ("Mistral", "Qwen2")
    path = save_decoder(kind, template, extra_rows=5, tie_word_embeddings=tied)
    decoder, head = modules(path, attention, activation=activation, pooling=pooling)
    plain = AutoModelForCausalLM.from_pretrained(path).eval()
    texts = [*sentences, "a"]
    expected = torch.stack(
        [
            slow_vector(plain, decoder.tokenizer, text, attention, activation, pooling)
            for text in texts
        ]
    )
    assert (expected > 0).sum(1).min() > 20
    found = vectors(decoder, head, texts)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padded", [False, True], ids=["alone", "padded"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_later_token_changes_an_earlier_state_in_both_directions_alone(
    kind, padded, save_decoder
):
    path = save_decoder(kind)
    texts = ["wing theory of a plane", "wing theory of a tail"]
    others = ["the small aspect ratio of slender bodies"] if padded else []
    first = {}
    for attention in ("causal", "bidirectional"):
        decoder, _ = modules(path, attention)
        states = [
            decoder(decoder.preprocess([text, *others]))["token_embeddings"][0, 1] for text in texts
        ]
        first[attention] = (states[0] - states[1]).abs().max().item()
    assert first["causal"] == 0
    assert first["bidirectional"] > 1e-2


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_neither_side_nor_amount_of_padding_changes_vectors_or_gradients(
    kind, attention, save_decoder, sentences
):
    decoder, head = modules(save_decoder(kind), attention)
    decoder.double()
    head.double()
    long = sentences[2]
    alone = vectors(decoder, head, ["wing"])
    gradients = []
    for side in ("left", "right"):
        decoder.tokenizer.padding_side = side
        features = decoder.preprocess(["wing", "", long])
        assert (features["attention_mask"][0] == 0).sum() > 5
        # The tokens in the padding have no effect.
        features["input_ids"][features["attention_mask"] == 0] = 40
        found = head(decoder(features))["sentence_embedding"]
        torch.testing.assert_close(found[:1], alone)
        assert not found[1].any()
        decoder.zero_grad()
        found.sum().backward()
        gradients.append([p.grad.clone() for p in decoder.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(list(decoder.parameters()))
    for left, right in zip(*gradients, strict=True):
        assert torch.isfinite(left).all()
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-8)


def test_a_batch_of_nothing_and_of_empty_texts(save_decoder):
    decoder, head = modules(save_decoder(template="$A"), "echo")
    assert decoder.preprocess([]) == {}
    assert not vectors(decoder, head, ["", ""]).any()


def scrambled(decoder, where):
    """A hook that replaces the states at `where`, (B, T), by noise before they are pooled."""

    def replace(module, args, output):
        noise = torch.randn_like(output.last_hidden_state) * 10
        output.last_hidden_state = torch.where(where[..., None], noise, output.last_hidden_state)
        return output

    return decoder.model.base_model.register_forward_hook(replace)


@pytest.mark.parametrize("kind", KINDS)
def test_echo_pools_the_second_copy_alone(kind, save_decoder, sentences):
    decoder, head = modules(save_decoder(kind, "<s> $A </s>"), "echo")
    texts = sentences[:3]
    features = decoder.preprocess(texts)
    bare = decoder.tokenizer(texts, add_special_tokens=False, truncation=True, max_length=22)
    second = torch.zeros_like(features["input_ids"], dtype=torch.bool)
    for row, ids in enumerate(bare["input_ids"]):
        n = len(ids)
        assert features["input_ids"][row, : 2 * n + 2].tolist() == [0, *ids, *ids, 1]
        second[row, n + 1 : 2 * n + 1] = True
    assert (features["pooling_mask"].bool() == second).all()
    expected = head(decoder(dict(features)))["sentence_embedding"]
    hook = scrambled(decoder, ~second)
    assert torch.equal(head(decoder(dict(features)))["sentence_embedding"], expected)
    hook.remove()
    for row in range(3):
        for position in second[row].nonzero()[:, 0].tolist():
            where = torch.zeros_like(second)
            where[row, position] = True
            hook = scrambled(decoder, where)
            found = head(decoder(dict(features)))["sentence_embedding"]
            hook.remove()
            changed = (found != expected).any(1)
            assert changed.tolist() == [other == row for other in range(3)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_copy_sees_the_first(kind, save_decoder):
    decoder, head = modules(save_decoder(kind), "echo")
    features = decoder.preprocess(["wing theory"])
    n = int(features["pooling_mask"].sum())
    expected = head(decoder(dict(features)))["sentence_embedding"]
    hidden = features["attention_mask"].clone()
    hidden[:, 1 : n + 1] = 0
    blind = head(decoder({**features, "attention_mask": hidden}))["sentence_embedding"]
    assert (blind - expected).abs().max() > 1e-2
    # The first pooled token attends to the last word of the first copy.
    ids = features["input_ids"].clone()
    ids[:, n] = 40
    states = [
        decoder({**features, "input_ids": given})["token_embeddings"][0, n + 1]
        for given in (ids, features["input_ids"])
    ]
    assert (states[0] - states[1]).abs().max() > 1e-2


def test_lengths_count_one_copy_and_its_special_tokens(save_decoder, sentences):
    path = save_decoder(template="<s> $A </s>")
    for attention, copies in (("causal", 1), ("echo", 2)):
        decoder, _ = modules(path, attention, max_length=10)
        decoder.query_length = 6
        shapes = {
            task: decoder.preprocess(sentences, task=task)["input_ids"].shape[1]
            for task in ("document", "query", None)
        }
        assert shapes == {"document": 8 * copies + 2, "query": 4 * copies + 2, None: 8 * copies + 2}
        assert decoder.preprocess(sentences, max_length=5)["input_ids"].shape[1] == 3 * copies + 2
        prompted = decoder.preprocess(["wing"], prompt="the ")["input_ids"]
        assert torch.equal(prompted, decoder.preprocess(["the wing"])["input_ids"])


def test_what_the_tokenizer_puts_around_a_text(save_decoder):
    frames = [
        modules(save_decoder(template=template))[0].frame()
        for template in ("$A", "<s> $A", "<s> $A </s>", "$A </s>")
    ]
    assert frames == [([], []), ([0], []), ([0], [1]), ([], [1])]


def test_scale_and_bias_shift_logits_and_special_terms_stay_silent(save_decoder, sentences):
    path = save_decoder(extra_rows=3)
    decoder, head = modules(path, scale=2.0)
    with torch.no_grad():
        head.bias.copy_(torch.linspace(5, -5, head.n_terms))
    plain = AutoModelForCausalLM.from_pretrained(path).eval()
    ids = decoder.tokenizer(sentences[0], truncation=True, max_length=24)["input_ids"]
    logits = plain(input_ids=torch.tensor([ids])).logits[0, 1:, : head.n_terms]
    expected = torch.log1p(torch.relu(2 * logits + head.bias)).amax(0)
    assert (expected[SPECIAL] > 0).all()
    expected[SPECIAL] = 0
    torch.testing.assert_close(
        vectors(decoder, head, sentences[:1])[0], expected, rtol=1e-4, atol=1e-4
    )
    with torch.no_grad():
        head.bias.fill_(100.0)
    dense = vectors(decoder, head, sentences)
    assert not dense[:, SPECIAL].any() and (dense[:, 3:] > 0).all()
    dense.sum().backward()
    assert not head.bias.grad[SPECIAL].any() and (head.bias.grad[3:] > 0).all()


def test_both_modules_open_again_from_a_folder(save_decoder, sentences, tmp_path):
    decoder, head = modules(save_decoder(), "echo", scale=0.5, activation="log1p_relu")
    torch.nn.init.normal_(head.bias)
    model = SparseEncoder(modules=[decoder, head], device="cpu")
    expected = model.encode_document(sentences)
    model.save(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SparseEncoder(str(tmp_path / "saved"))
    again = SparseEncoder(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    assert [type(module) for module in again] == [Decoder, DecoderPooling]
    assert torch.equal(again.encode_document(sentences).to_dense(), expected.to_dense())
    assert again.get_embedding_dimension() == len(decoder.tokenizer)
