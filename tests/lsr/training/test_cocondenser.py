"""lsr/training/cocondenser.py compared with the paper's losses, written out layer by layer."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from lsr.encoders.fuse import put_decoder_back, take_decoder_out
from lsr.training.cocondenser import HEAD_LAYERS, Cocondenser, drop_head, span_contrast
from lsr.training.masking import IGNORED
from lsr.training.processes import gather_rows

V, T = 60, 9
SIZES = {
    "vocab_size": V,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "intermediate_size": 32,
    "initializer_range": 0.3,
}
KINDS = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES)),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SIZES)),
    "xlm-roberta": lambda: XLMRobertaForMaskedLM(XLMRobertaConfig(**SIZES)),
}


@pytest.fixture
def model(request):
    torch.manual_seed(0)
    # No dropout: it would draw other random numbers in the two computations.
    return KINDS[getattr(request, "param", "bert")]().double().eval()


def batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, V, (6, T), generator=generator)
    mask = (torch.arange(T) < torch.tensor([9, 7, 4, 9, 3, 6])[:, None]).long()
    labels = torch.where(torch.rand((6, T), generator=generator) < 0.4, ids, IGNORED)
    labels = torch.where(mask == 1, labels, IGNORED)
    labels[:, 0] = IGNORED
    return {"input_ids": torch.where(mask == 1, ids, 1), "attention_mask": mask, "labels": labels}


def written_out(model, early):
    """Compute the three losses text by text and layer by layer, without padding."""
    inputs = batch()
    base, decoder = model.base_model, model.get_output_embeddings()
    transform = model.cls.predictions.transform if hasattr(model, "cls") else None
    nothing = torch.zeros((1, 1, 1, 1), dtype=torch.double)

    def negative_logs(states, labels):
        if transform is None:
            head = model.lm_head
            states = head.layer_norm(torch.nn.functional.gelu(head.dense(states)))
        else:
            states = transform(states)
        probabilities = torch.softmax(states @ decoder.weight.T + decoder.bias, -1)
        return [
            -torch.log(probabilities[0, i, label])
            for i, label in enumerate(labels.tolist())
            if label != IGNORED
        ]

    late_losses, head_losses, summaries = [], [], []
    for ids, mask, labels in zip(
        inputs["input_ids"], inputs["attention_mask"], inputs["labels"], strict=True
    ):
        n = int(mask.sum())
        layers = [base.embeddings(input_ids=ids[None, :n])]
        for layer in base.encoder.layer:
            layers.append(layer(layers[-1], nothing))
        late_losses += negative_logs(layers[-1], labels[:n])
        states = layers[early].clone()
        states[0, 0] = layers[-1][0, 0]
        for layer in model.condenser:
            states = layer(states, nothing)
        head_losses += negative_logs(states, labels[:n])
        summaries.append(layers[-1][0, 0])
    contrastive = []
    for i, own in enumerate(summaries):
        sibling = i + 1 if i % 2 == 0 else i - 1
        scores = {j: torch.exp(own @ other) for j, other in enumerate(summaries) if j != i}
        contrastive.append(-torch.log(scores[sibling] / sum(scores.values())))
    losses = {"head_mlm": head_losses, "late_mlm": late_losses, "contrastive": contrastive}
    return {name: sum(parts) / len(parts) for name, parts in losses.items()}


@pytest.mark.parametrize("early", [None, 1, 3])
@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_losses_and_gradients_are_those_written_out(model, early):
    decoder = take_decoder_out(model)
    loss = Cocondenser(model, decoder, early)
    model.eval()  # turns off the head's dropout too
    found = loss(model, batch())
    sum(found.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    put_decoder_back(decoder)
    expected = written_out(model, 2 if early is None else early)
    sum(expected.values()).backward()
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12)
    heads = 0
    for name, parameter in model.named_parameters():
        heads += name.startswith("condenser.")
        if parameter.grad is None:
            assert gradients[name] is None, name
        else:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-7, atol=1e-10)
    assert heads == HEAD_LAYERS * 16


def test_the_head_is_initialised_as_the_model_and_dropped_without_a_trace(model):
    names = list(model.state_dict())
    loss = Cocondenser(model, take_decoder_out(model))
    dense = model.condenser[0].intermediate.dense
    assert float(dense.weight.detach().std()) == pytest.approx(0.3, rel=0.1)
    assert (dense.bias == 0).all()
    assert dense.weight.dtype == torch.double
    assert loss(model, batch()).keys() == {"head_mlm", "late_mlm", "contrastive"}
    drop_head(model)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("early", [0, 4, -1])
def test_layers_that_are_no_early_ones_are_refused(model, early):
    with pytest.raises(
        ValueError, match=rf"`early_layer` must be in \[1, 3\] for a model of 4 layers, got {early}"
    ):
        Cocondenser(model, take_decoder_out(model), early)


@pytest.mark.parametrize("kind", ["distilbert", "modernbert"])
def test_other_architectures_are_refused(kind):
    if kind == "distilbert":
        model = DistilBertForMaskedLM(
            DistilBertConfig(vocab_size=V, dim=16, n_heads=2, n_layers=2, hidden_dim=32)
        )
    else:
        model = ModernBertForMaskedLM(ModernBertConfig(**SIZES | {"pad_token_id": 0}))
    name = type(model).__name__
    with pytest.raises(
        ValueError, match=rf"with BERT's layers: one of bert, .*, got '{kind}' \({name}"
    ):
        Cocondenser(model, take_decoder_out(model))


class TestSpanContrast:
    def test_value_by_hand(self):
        """Rows a, a, b, b of orthogonal unit vectors: each softmax has e¹ and two times e⁰."""
        a, b = torch.eye(2)
        found = span_contrast(torch.stack([a, a, b, b]))
        assert float(found) == pytest.approx(-math.log(math.e / (math.e + 2)), rel=1e-6)

    def test_rows_beside_each_other_are_the_pairs(self):
        a, b = torch.eye(2)
        paired, crossed = (span_contrast(10 * torch.stack(r)) for r in ([a, a, b, b], [a, b, a, b]))
        assert float(paired) < 1e-6
        assert float(crossed) > 10

    def test_half_precision_is_summed_in_float32(self):
        states = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
        found = span_contrast(states)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, span_contrast(states.double()).float())
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(span_contrast(states), found)


def contrast(rank, processes, folder, states):
    """Run one process's share of a step; average gradients as DistributedDataParallel does."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes
    )
    weight = torch.eye(states.shape[1], dtype=torch.double, requires_grad=True)
    loss = span_contrast(gather_rows(states.chunk(processes)[rank] @ weight))
    loss.backward()
    dist.all_reduce(weight.grad)
    torch.save((loss.detach(), weight.grad / processes), folder / f"{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_contrast_with_the_spans_of_both(tmp_path):
    states = torch.randn(8, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    weight = torch.eye(3, dtype=torch.double, requires_grad=True)
    expected = span_contrast(states @ weight)
    expected.backward()
    multiprocessing.spawn(contrast, (2, tmp_path, states), nprocs=2)
    for rank in (0, 1):
        loss, gradient = torch.load(tmp_path / f"{rank}")
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, weight.grad, rtol=1e-12, atol=1e-15)
