"""lsr/training/regularisers.py against sums over pairs; see test_processes.py for processes."""

import json
import math

import pytest
import torch

from lsr.training.regularisers import L1, DFFlops, Flops

IDF = torch.tensor([2.0, 0.5], dtype=torch.float64)
PAIR = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)


def oracle(vectors, factors=None):
    """The mean product of the weights of two different texts, summed over terms."""
    pairs = [
        vectors[i] * vectors[k] for i in range(len(vectors)) for k in range(len(vectors)) if i != k
    ]
    means = torch.stack(pairs).mean(0)
    return (means if factors is None else means * factors).sum()


def sparse_vectors(rows, terms, seed=0, dtype=torch.float64):
    """Vectors like a batch of SPLADE's: mostly zeros, with one row and one column all zeros."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.rand((rows, terms), generator=generator, dtype=dtype)
    vectors *= torch.rand((rows, terms), generator=generator) < 0.3
    vectors[rows // 2] = 0
    vectors[:, terms // 2] = 0
    return vectors


def test_values_by_hand():
    # Two texts: the product of their weights, 1 · 3 and 2 · 4.
    assert Flops()(PAIR).item() == pytest.approx(3 + 8, rel=1e-14)
    # A third, (0, 1): three pairs, of which (3 + 0 + 0) / 3 and (8 + 2 + 4) / 3.
    three = torch.cat([PAIR, torch.tensor([[0.0, 1.0]])])
    assert Flops()(three).item() == pytest.approx(1 + 14 / 3, rel=1e-14)
    assert L1()(three).item() == pytest.approx((3 + 7 + 1) / 3, rel=1e-14)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (2.0, 3 + 8),  # plain FLOPS on w, the released behaviour
        (0.0, 2**2 * 3 + 0.5**2 * 8),  # plain FLOPS on u = idf · w: (2 · 6, 1 · 2)
        (1.0, 2 * 3 + 0.5 * 8),
    ],
)
def test_idf_aware_values_by_hand(alpha, expected):
    assert Flops(IDF, alpha)(PAIR).item() == pytest.approx(expected, rel=1e-14)
    effective = IDF * PAIR
    assert oracle(effective, IDF**-alpha).item() == pytest.approx(expected, rel=1e-14)


def test_the_factor_of_idf_is_the_same_for_all_terms_only_at_alpha_2():
    """idf^(2 − α): below 2 it grows with the IDF of a term, above 2 it falls."""
    rows = torch.eye(4, dtype=torch.float64).repeat_interleave(2, dim=0)
    idf = torch.tensor([0.1, 1.0, 3.0, 9.0], dtype=torch.float64)
    for alpha in (0.0, 1.0, 1.9, 2.0, 2.1, 3.0):
        # Each penalty is of one term alone, with the same weight in two texts.
        penalties = [Flops(idf, alpha)(rows[2 * j : 2 * j + 2]).item() for j in range(4)]
        plain = [Flops()(rows[2 * j : 2 * j + 2]).item() for j in range(4)]
        factors = torch.tensor(penalties) / torch.tensor(plain)
        torch.testing.assert_close(factors, (idf ** (2 - alpha)).float())
        assert bool((factors == 1).all()) == (alpha == 2)
        assert bool((factors.diff() > 0).all()) == (alpha < 2)
        assert bool((factors.diff() < 0).all()) == (alpha > 2)


def test_alpha_0_is_plain_flops_on_effective_weights_and_alpha_2_on_weights():
    vectors = sparse_vectors(7, 11)
    idf = torch.linspace(0.1, 9, 11, dtype=torch.float64)
    torch.testing.assert_close(Flops(idf, alpha=0)(vectors), Flops()(idf * vectors))
    assert Flops(idf, alpha=2)(vectors).item() == Flops()(vectors).item()


@pytest.mark.parametrize("rows", [2, 3, 9])
@pytest.mark.parametrize("threshold", [None, 0, 3, 100])
def test_values_and_gradients_equal_sums_over_pairs(rows, threshold):
    idf = torch.linspace(0.1, 9, 11, dtype=torch.float64)
    vectors = sparse_vectors(rows, 11).requires_grad_()
    copy = vectors.detach().clone().requires_grad_()
    value = 1.7 * Flops(idf, 0.5, threshold)(vectors)
    kept = copy if threshold is None else copy * ((copy > 0).sum(1, keepdim=True) > threshold)
    expected = 1.7 * oracle(kept, idf**1.5)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(vectors.grad, copy.grad)
    assert bool(vectors.grad.any()) or rows < 9 or threshold == 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_texts_without_a_common_term_cost_nothing(dtype):
    weights = torch.rand(300, generator=torch.Generator().manual_seed(0), dtype=dtype)
    vectors = (torch.eye(300, dtype=dtype) * weights).requires_grad_()
    value = Flops()(vectors)
    value.backward()
    assert value.item() == 0
    assert not vectors.grad.diagonal().any()
    # A single shared term counts, even if it is tiny next to the other weights.
    with torch.no_grad():
        vectors[0, 1] = 1e-3
    assert Flops()(vectors).item() == pytest.approx(
        2e-3 * float(weights[1]) / (300 * 299), rel=1e-2
    )


def test_gradients_are_numerically_right():
    vectors = (sparse_vectors(4, 5) + 0.1).requires_grad_()
    idf = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(Flops(idf, 0.0), (vectors,))
    assert torch.autograd.gradcheck(L1(), (vectors,))


def test_the_mask_counts_masked_texts_as_zero():
    vectors = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [5.0, 0.0, 0.0]])
    # Of three pairs one is left: 3 · (1 · 2) / 3.
    assert Flops(threshold=1)(vectors).item() == pytest.approx(2)
    assert Flops(threshold=3)(vectors).item() == 0
    assert L1(threshold=1)(vectors).item() == pytest.approx((3 + 6) / 3)


def test_l1_gradient_is_the_sign_over_the_number_of_texts():
    vectors = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]], requires_grad=True)
    L1(threshold=1)(vectors).backward()
    assert vectors.grad.tolist() == [[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]


def test_bfloat16_is_summed_in_float32():
    vectors = sparse_vectors(64, 300, dtype=torch.float32).bfloat16().requires_grad_()
    value = Flops()(vectors)
    assert value.dtype == torch.float32
    expected = vectors.detach().double().requires_grad_()
    Flops()(expected).backward()
    value.backward()
    torch.testing.assert_close(value, oracle(vectors.detach().double()).float())
    torch.testing.assert_close(vectors.grad, expected.grad.bfloat16())


def test_memory_of_the_backward_pass_is_one_gradient():
    """The backward pass keeps no tensor as large as the vectors, except for the vectors."""
    vectors = torch.rand(8, 1000, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        Flops(torch.rand(1000) + 1, 0.0, threshold=3)(vectors)
    assert sum(t.numel() for t in kept if t.data_ptr() != vectors.data_ptr()) < 2100


# Weights of a term: with probability p_j an exponential variable times a factor of the text, so
# that terms go together as they do in texts. E = p_j · 1.
CHANCES = 0.5 / torch.arange(1, 201) ** 0.7
TRUTH = float(CHANCES.square().sum())


def draw(rows, generator):
    length = 0.5 + torch.rand((rows, 1), generator=generator)
    weights = torch.empty((rows, 200)).exponential_(generator=generator)
    return weights * length * (torch.rand((rows, 200), generator=generator) < CHANCES)


def mean_and_error(values):
    values = torch.stack(values).double()
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


@pytest.mark.parametrize("rows", [pytest.param(4, marks=pytest.mark.slow), 16, 64, 512])
@pytest.mark.parametrize("accumulated", [1, 4])
def test_the_estimate_is_the_same_for_every_batch_size_and_accumulation(rows, accumulated):
    generator = torch.Generator().manual_seed(rows)
    regulariser = Flops()
    draws = 32768 // rows // accumulated
    values = [
        torch.stack([regulariser(draw(rows, generator)) for _ in range(accumulated)]).mean()
        for _ in range(max(16, draws))
    ]
    mean, error = mean_and_error(values)
    assert error < 0.02 * TRUTH
    assert abs(mean - TRUTH) < 4 * error


def test_this_would_notice_the_usual_estimate():
    generator = torch.Generator().manual_seed(0)
    mean, error = mean_and_error([draw(4, generator).mean(0).square().sum() for _ in range(2000)])
    assert mean - TRUTH > 30 * error


@pytest.mark.parametrize(
    ("rows", "accumulated"), [pytest.param(4, 16, marks=pytest.mark.slow), (16, 4), (64, 1)]
)
def test_the_gradient_is_the_same_for_every_batch_size_and_accumulation(rows, accumulated):
    """The gradient with respect to a factor of a group of terms is Σ 2 μ_j² over the group."""
    generator = torch.Generator().manual_seed(rows)
    gradients = []
    for _ in range(300):
        factors = torch.ones(2, requires_grad=True)
        for _ in range(accumulated):
            vectors = factors.repeat_interleave(100) * draw(rows, generator)
            (Flops()(vectors) / accumulated).backward()
        gradients.append(factors.grad)
    expected = 2 * CHANCES.square().reshape(2, 100).sum(1)
    for group in range(2):
        mean, error = mean_and_error([gradient[group] for gradient in gradients])
        assert error < 0.12 * expected[group]
        assert abs(mean - expected[group]) < 4 * error


def test_df_activation_by_hand():
    regulariser = DFFlops(4, alpha=0.1, beta=10)
    shares = torch.tensor([0.0, 0.01, 0.1, 1.0], dtype=torch.float64)
    # log_0.1 2 = −log10 2, so that 0.01 becomes 2² and 0.1 becomes 2.
    expected = [0.0, 1 / (1 + 3**10), 0.5, 1.0]
    torch.testing.assert_close(regulariser.activation(shares).tolist(), expected)
    for share in torch.linspace(0.05, 0.95, 7).tolist():
        by_hand = 1 / (1 + (share ** (math.log(2) / math.log(0.1)) - 1) ** 10)
        assert regulariser.activation(torch.tensor([share]))[0] == pytest.approx(by_hand, rel=1e-4)


def test_df_flops_weighs_terms_by_how_often_they_are_active():
    regulariser = DFFlops(2, refresh_steps=3)
    assert regulariser(PAIR).item() == pytest.approx(3 + 8)  # no frequency is known yet
    regulariser.step(torch.tensor([0.1, 1.0]))
    assert regulariser(PAIR).item() == pytest.approx(0.5**2 * 3 + 8)
    for _ in range(2):  # activation frequencies stay until the next refresh
        regulariser.step(torch.tensor([1.0, 1.0]))
        assert regulariser(PAIR).item() == pytest.approx(0.5**2 * 3 + 8)
    regulariser.step(torch.tensor([0.0, 1.0]))
    # The mean of 0.1, 1 and 1 is 0.7; then it moves a third of the way to 0.
    a = float(regulariser.activation(torch.tensor([0.7 * 2 / 3]))[0])
    assert regulariser(PAIR).item() == pytest.approx(a**2 * 3 + 8)


def test_df_flops_goes_on_from_its_state():
    shares = torch.rand((9, 5), generator=torch.Generator().manual_seed(0))
    whole, first, second = (DFFlops(5, refresh_steps=4) for _ in range(3))
    for seen in shares:
        whole.step(seen)
    for seen in shares[:6]:
        first.step(seen)
    second.restore(json.loads(json.dumps(first.state())))
    for seen in shares[6:]:
        second.step(seen)
    vectors = sparse_vectors(6, 5)
    assert second(vectors).item() == whole(vectors).item()
    with pytest.raises(ValueError, match="the state is of 5 terms, but the penalty of 6"):
        DFFlops(6).restore(first.state())


def test_others_have_no_state():
    assert Flops().state() == {} == L1().state()
    Flops().restore({})
    Flops().step(torch.ones(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flops(alpha=math.nan), "`alpha` must be finite, got nan"),
        (lambda: Flops(torch.tensor([1.0, 0.0])), r"`idf` must be positive .* 0.0 for term 1"),
        (lambda: Flops(torch.tensor([math.inf])), "`idf` must be positive and finite, got inf"),
        (lambda: Flops(torch.ones(2, 2)), r"`idf` must have shape \(V,\), got \(2, 2\)"),
        (lambda: Flops(threshold=-1), "`threshold` must be None or at least 0, got -1"),
        (lambda: L1(threshold=-1), "`threshold` must be None or at least 0, got -1"),
        (lambda: DFFlops(0), "`n_terms` must be at least 1, got 0"),
        (lambda: DFFlops(2, alpha=1.0), r"`alpha` must be in \(0, 1\), got 1.0"),
        (lambda: DFFlops(2, beta=0.0), "`beta` must be positive and finite, got 0.0"),
        (lambda: DFFlops(2, refresh_steps=0), "`refresh_steps` must be at least 1, got 0"),
        (lambda: Flops()(torch.ones(1, 3)), "at least 2 vectors over all processes .* got 1"),
        (lambda: DFFlops(3)(torch.ones(1, 3)), "at least 2 vectors over all processes .* got 1"),
        (lambda: Flops()(torch.ones(3)), r"`vectors` must have shape \(N, V\), got \(3,\)"),
        (lambda: DFFlops(2)(torch.ones(2, 3)), "is of 2 terms, but the vectors have 3"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
