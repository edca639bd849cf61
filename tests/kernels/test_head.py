"""kernels/head.py: padded and packed states, and the choice of a path."""

import logging

import pytest
import torch

from lsr.kernels import head, reference
from lsr.kernels.head import pack, splade_head


@pytest.fixture
def states():
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(4, 6, 9), torch.randn(77, 9), torch.randn(77)
    mask = torch.tensor(
        [[1, 1, 1, 0, 0, 0], [0] * 6, [1] * 6, [0, 1, 0, 1, 1, 0]], dtype=torch.long
    )
    return hidden, weight, bias, mask


@pytest.mark.parametrize("impl", ["auto", "cpu", "reference"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_padding_takes_no_part_wherever_it_is(states, impl, pooling):
    hidden, weight, bias, mask = states
    values = reference.activate(hidden @ weight.T + bias, "relu") * mask[..., None]
    expected = values.amax(1) if pooling == "max" else values.sum(1)
    # Values in the padding are not used, not even NaN.
    hidden[mask == 0] = float("nan")
    hidden.requires_grad_()
    found = splade_head(hidden, weight, bias, mask=mask, pooling=pooling, impl=impl)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), hidden)
    assert (gradient[mask == 0] == 0).all()
    assert (gradient[0, :3] != 0).any()


def test_packed_and_padded_are_the_same(states):
    hidden, weight, bias, mask = states
    packed, cu_seqlens = pack(hidden, mask)
    assert cu_seqlens.tolist() == [0, 3, 3, 9, 12]
    assert torch.equal(
        splade_head(packed, weight, bias, cu_seqlens=cu_seqlens),
        splade_head(hidden, weight, bias, mask=mask.bool()),
    )


def test_states_without_padding_are_not_copied(states):
    hidden = states[0]
    packed, cu_seqlens = pack(hidden, torch.ones(4, 6))
    assert packed.data_ptr() == hidden.data_ptr()
    assert packed.shape == (24, 9) and cu_seqlens.tolist() == [0, 6, 12, 18, 24]
    assert pack(hidden[:0], torch.ones(0, 6))[1].tolist() == [0]


def test_a_weight_of_another_dtype_is_cast_and_its_gradient_cast_back(states):
    hidden, weight, _, mask = states
    weight.requires_grad_()
    found = splade_head(hidden.bfloat16(), weight, mask=mask)
    assert found.dtype == torch.float32
    (gradient,) = torch.autograd.grad(found.sum(), weight)
    assert gradient.dtype == torch.float32


def test_the_choice_is_logged_once(states, caplog):
    hidden, weight, bias, mask = states
    head._log_once.cache_clear()
    with caplog.at_level(logging.INFO, "lsr.kernels.head"):
        for _ in range(3):
            splade_head(hidden, weight, bias, mask=mask)
    assert [record.getMessage() for record in caplog.records] == [
        "the SPLADE head runs by 'cpu' on cpu"
    ]


def test_errors(states):
    hidden, weight, bias, mask = states
    for given in ({}, {"mask": mask, "cu_seqlens": torch.tensor([0, 1])}):
        with pytest.raises(ValueError, match="give `cu_seqlens` with packed or `mask`"):
            splade_head(hidden, weight, bias, **given)
    with pytest.raises(ValueError, match=r"`mask` \(B, T\), got \(4, 6, 9\) and \(4, 5\)"):
        splade_head(hidden, weight, bias, mask=mask[:, :5])
    with pytest.raises(ValueError, match="`impl` must be .* got 'cuda'"):
        splade_head(hidden, weight, bias, mask=mask, impl="cuda")


def test_triton_is_refused_with_the_reason_where_it_cannot_compute(states, monkeypatch):
    hidden, weight, bias, mask = states
    pytest.importorskip("triton", reason="Triton is not installed")
    with pytest.raises(ValueError, match="needs states on a CUDA device, got cpu"):
        splade_head(hidden, weight, bias, mask=mask, impl="triton")
    with pytest.raises(ValueError, match="needs `pooling` 'max', got 'sum'"):
        splade_head(hidden, weight, bias, mask=mask, impl="triton", pooling="sum")
    with pytest.raises(ValueError, match="needs states in float32, .* got torch.float64"):
        splade_head(hidden.double(), weight, bias, mask=mask, impl="triton")
    with monkeypatch.context() as patched:
        patched.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ValueError, match="needs Triton: `pip install triton`"):
            splade_head(hidden, weight, bias, mask=mask, impl="triton")
    monkeypatch.setattr("triton.__version__", "3.3.1")
    with pytest.raises(ValueError, match="needs Triton 3.4 or newer, found 3.3.1"):
        splade_head(hidden, weight, bias, mask=mask, impl="triton")


class OnCuda(torch.Tensor):
    """States that claim to be on a GPU, which is all that the choice of a path checks."""

    is_cuda = True


@pytest.fixture
def gpu(monkeypatch):
    """Make the choice of a path believe that the kernels can run on this machine."""
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr("triton.__version__", "3.4.0+git1")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    return torch.ones(2, 3).as_subclass(OnCuda)


@pytest.mark.parametrize(
    ("target", "value", "missing"),
    [
        ("triton.__version__", "3.4.0", None),
        ("triton.__version__", "3.10.0", None),
        ("triton.__version__", "3.3.1", "Triton 3.4 or newer, found 3.3.1"),
        ("torch.version.hip", "6.4", "an NVIDIA GPU, and this PyTorch is built for ROCm 6.4"),
        ("importlib.util.find_spec", lambda name: None, "Triton: `pip install triton`"),
        ("torch.cuda.get_device_capability", lambda device: (9, 0), None),
        (
            "torch.cuda.get_device_capability",
            lambda device: (7, 5),
            "a GPU of compute capability 8.0 or higher, and cpu has 7.5",
        ),
    ],
)
def test_what_triton_needs(gpu, monkeypatch, caplog, target, value, missing):
    monkeypatch.setattr(target, value)
    assert head.missing_for_triton(gpu, "max") == missing
    # splade_head chooses the path by that function, and logs the reason once.
    monkeypatch.setattr("lsr.kernels.fused.splade_pool", lambda *arguments: "by triton")
    head._log_once.cache_clear()
    with caplog.at_level(logging.INFO, "lsr.kernels.head"):
        for _ in range(2):
            found = splade_head(gpu, torch.ones(5, 3), cu_seqlens=torch.tensor([0, 2]))
    (record,) = caplog.records
    if missing is None:
        assert found == "by triton"
        assert record.levelno == logging.INFO
        assert record.getMessage() == "the SPLADE head runs by 'triton' on cpu"
    else:
        assert found.shape == (1, 5)
        assert record.levelno == logging.WARNING
        assert record.getMessage() == (
            f"the SPLADE head runs by 'cpu' on cpu: 'triton' needs {missing}"
        )
