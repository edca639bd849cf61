"""Penalties on term weights that make vectors sparse, estimated the same way for every batch.

The FLOPS penalty is Σ_j μ_j², with μ_j the mean weight of term j over all texts. It is usually
estimated by the square of a batch's mean, whose expectation is Σ_j μ_j² + Σ_j σ_j²/N: with 150
active terms of 30522 that is 50 for a batch of 4 and 1.1 for one of 512, so that λ means something
else for each batch size, number of processes and number of accumulated batches. Here μ_j² is
estimated by a U-statistic, the mean product of the weights of two different texts. Its expectation
is μ_j² whatever the batch.

Sums run over the rows of all processes of `torch.distributed`. Each process returns the same value
and, for its own rows, the gradient times the number of processes: averaged over processes, as
DistributedDataParallel does, that is the gradient of the estimate over all rows.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lsr.training.processes import process_count, sum_over_processes

# Rows that are squared or counted at once: temporaries are no larger.
ROWS = 32


def active_terms(vectors: Tensor, dim: int) -> Tensor:
    """How many weights are not zero, float32: of each text (dim 1) or each term (dim 0)."""
    parts = [
        part.sign().abs_().sum(dim, dtype=torch.float32)
        for part in torch.split(vectors.detach(), ROWS)
    ]
    return torch.cat(parts) if dim == 1 else torch.stack(parts).sum(0)


class Regulariser(nn.Module):
    """A penalty on term weights; subclasses implement `forward`."""

    def forward(self, vectors: Tensor) -> Tensor:
        """The penalty, unweighted: a scalar, float32 or float64.

        Args:
            vectors: term weights of N texts, not negative, float, shape (N, V).
        """
        raise NotImplementedError

    def step(self, term_shares: Tensor) -> None:
        """Note which terms the step's vectors had; to be called once after each optimiser step.

        Args:
            term_shares: of each term, the share of vectors that it is active in, shape (V,).
        """

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, fit for JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""


class Flops(Regulariser):
    """Σ_j idf_j^(−α) · (mean effective weight of term j)², plain or IDF-aware FLOPS.

    Plain FLOPS: "Minimizing FLOPs to Learn Efficient Sparse Representations" (arXiv 2004.05665),
    eq. 4. With `idf` the effective weight is u_j = idf_j · w_j, what the document adds to the score
    of an inference-free query (arXiv 2411.04403). On the weights w themselves the penalty is
    Σ_j idf_j^(2 − α) · (mean w_j)², so `factors` is idf^(2 − α):

    - α = 2: the factor is 1 for every term. This is plain FLOPS on the weights, whatever the IDF.
      The released code of the inference-free models does this: it has the IDF in the score alone.
      (Over u the factor is then idf^(−2), so that a common term pays more for what it adds to u.)
    - α < 2: rare terms are penalised more. α = 0 is Σ_j (mean u_j)², plain FLOPS on what enters the
      score.
    - α > 2: common terms are penalised more.

    The ℓ0 mask (arXiv 2504.14839): only texts of more than `threshold` terms take part. The others
    count as zero rows (N stays), as in the released code, so that the estimate stays unbiased, of
    Σ_j E[M·w_j]².
    """

    def __init__(
        self, idf: Tensor | None = None, alpha: float = 2.0, threshold: int | None = None
    ) -> None:
        """A FLOPS penalty.

        Args:
            idf: positive, shape (V,); constant, also where the model learns its query weights.
            alpha: α; without `idf` it has no effect, and at 2 `idf` has none.
            threshold: τ of the ℓ0 mask, in terms; None: all texts take part.

        Raises:
            ValueError: an argument is out of range.
        """
        super().__init__()
        if not math.isfinite(alpha):
            raise ValueError(f"`alpha` must be finite, got {alpha}")
        if idf is not None:
            if idf.dim() != 1:
                raise ValueError(f"`idf` must have shape (V,), got {tuple(idf.shape)}")
            bad = ~(torch.isfinite(idf) & (idf > 0))
            if bool(bad.any()):
                term = int(bad.nonzero()[0])
                raise ValueError(
                    f"`idf` must be positive and finite, got {float(idf[term])} for term {term}"
                )
        self.threshold = _checked_threshold(threshold)
        factors = None
        if idf is not None and alpha != 2:
            factors = (idf.double() ** (2 - alpha)).to(idf.dtype)
        self.factors: Tensor | None
        self.register_buffer("factors", factors, persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """The penalty; see `Regulariser.forward`.

        Raises:
            ValueError: there is only one row in all processes, or `idf` has not V values.
        """
        return _squared_means(vectors, self.factors, self.threshold)


class DFFlops(Regulariser):
    """Σ_j (a_j · mean w_j)², FLOPS that spares terms of few documents (arXiv 2505.15070).

    a_j = 1/(1 + (x_j^{log_α 2} − 1)^β) grows with x_j = DF_j/|C|, the share of documents that hold
    term j: 0 for none, 1/2 at α, 1 for all. That a_j stands inside the square follows the paper;
    summaries of it print a_j · (mean w_j)².

    The paper computes DF from validation documents every 100 steps. Here it is a running estimate
    from the training batches themselves, the mean of `step`'s shares over about the last
    `refresh_steps` steps; a is computed anew as often. a_j is 1 until the first step has been seen.
    a comes from earlier batches only, so that the penalty stays an unbiased estimate.
    """

    def __init__(
        self,
        n_terms: int,
        alpha: float = 0.1,
        beta: float = 10.0,
        *,
        threshold: int | None = None,
        refresh_steps: int = 100,
    ) -> None:
        """A DF-FLOPS penalty.

        Args:
            n_terms: V.
            alpha: the share of documents at which a is 1/2, in (0, 1). The default is ours.
            beta: how steeply a rises there, positive. The default is ours.
            threshold: τ of the ℓ0 mask, see `Flops`.
            refresh_steps: optimiser steps, at least 1.

        Raises:
            ValueError: an argument is out of range.
        """
        super().__init__()
        if n_terms < 1:
            raise ValueError(f"`n_terms` must be at least 1, got {n_terms}")
        if not 0 < alpha < 1:
            raise ValueError(f"`alpha` must be in (0, 1), got {alpha}")
        if not 0 < beta < math.inf:
            raise ValueError(f"`beta` must be positive and finite, got {beta}")
        if refresh_steps < 1:
            raise ValueError(f"`refresh_steps` must be at least 1, got {refresh_steps}")
        self.alpha, self.beta = alpha, beta
        self.refresh_steps = refresh_steps
        self.threshold = _checked_threshold(threshold)
        self.steps = 0
        self.shares: Tensor
        self.factors: Tensor
        self.register_buffer("shares", torch.zeros(n_terms), persistent=False)
        self.register_buffer("factors", torch.ones(n_terms), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """The penalty; see `Regulariser.forward`.

        Raises:
            ValueError: there is only one row in all processes, or V is not `n_terms`.
        """
        return _squared_means(vectors, self.factors, self.threshold)

    def activation(self, shares: Tensor) -> Tensor:
        """a for shares of documents in [0, 1], shape (V,)."""
        powers = shares.double() ** (math.log(2) / math.log(self.alpha))
        # Rounding may put a share of 1 slightly above 1.
        return (1 / (1 + (powers - 1).clamp(min=0) ** self.beta)).to(shares.dtype)

    def step(self, term_shares: Tensor) -> None:
        """Add one step to the running estimate, and refresh a when it is due."""
        self.steps += 1
        difference = term_shares.to(self.shares) - self.shares
        self.shares += difference / min(self.steps, self.refresh_steps)
        if self.steps % self.refresh_steps == 1 or self.refresh_steps == 1:
            self.factors = self.activation(self.shares).square()

    def state(self) -> dict[str, Any]:
        """The number of steps, and two vectors as base64 of little-endian float32."""
        return {"steps": self.steps, "shares": _pack(self.shares), "factors": _pack(self.factors)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: the state is of another vocabulary.
        """
        shares, factors = _unpack(state["shares"]), _unpack(state["factors"])
        if shares.shape != self.shares.shape:
            raise ValueError(
                f"the state is of {len(shares)} terms, but the penalty of {len(self.shares)}"
            )
        self.steps = int(state["steps"])
        self.shares, self.factors = shares.to(self.shares), factors.to(self.factors)


class L1(Regulariser):
    """Mean over texts of Σ_j |w_j|, as for the queries of Efficient SPLADE (arXiv 2207.03834)."""

    def __init__(self, threshold: int | None = None) -> None:
        """An L1 penalty; for `threshold`, in terms, see `Flops`."""
        super().__init__()
        self.threshold = _checked_threshold(threshold)

    def forward(self, vectors: Tensor) -> Tensor:
        """The penalty; see `Regulariser.forward`."""
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        norms = torch.linalg.vector_norm(vectors, ord=1, dim=1, dtype=dtype)
        kept = _taking_part(vectors, self.threshold)
        own = (norms if kept is None else norms * kept).sum()
        rows = own.new_tensor(float(len(vectors)))
        total, rows = sum_over_processes(torch.stack([own.detach(), rows])).unbind()
        value: Tensor = (total + process_count() * (own - own.detach())) / rows
        return value


def _checked_threshold(threshold: int | None) -> int | None:
    if threshold is not None and threshold < 0:
        raise ValueError(f"`threshold` must be None or at least 0, got {threshold}")
    return threshold


def _taking_part(vectors: Tensor, threshold: int | None) -> Tensor | None:
    """The ℓ0 mask, bool, shape (N,); None: all take part."""
    if threshold is None:
        return None
    return active_terms(vectors, dim=1) > threshold


def _squared_means(vectors: Tensor, factors: Tensor | None, threshold: int | None) -> Tensor:
    if vectors.dim() != 2:
        raise ValueError(f"`vectors` must have shape (N, V), got {tuple(vectors.shape)}")
    if factors is not None and len(factors) != vectors.shape[1]:
        raise ValueError(
            f"the regulariser is of {len(factors)} terms, but the vectors have {vectors.shape[1]}"
        )
    kept = _taking_part(vectors, threshold)
    value: Tensor = _SquaredMeans.apply(vectors, factors, kept)  # type: ignore[no-untyped-call]
    return value


class _SquaredMeans(torch.autograd.Function):
    """Σ_j f_j · ((Σ_i w_ij)² − Σ_i w_ij²) / (N(N−1)) over the rows of all processes.

    Written out because autograd would keep or make several matrices as large as `vectors`; this
    makes one, their gradient 2 f_j (Σ_k w_kj − w_ij) / (N(N−1)), and with a mask a second.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, factors: Tensor | None, kept: Tensor | None) -> Tensor:
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        rows = vectors if kept is None else vectors * kept[:, None]
        sums = rows.sum(0, dtype=dtype)
        squares = torch.stack(
            [part.to(dtype).square().sum(0) for part in torch.split(rows, ROWS)]
        ).sum(0)
        processes = process_count()
        if len(vectors) * processes < 2:
            raise ValueError(
                "FLOPS needs at least 2 vectors over all processes to be estimated without bias, "
                "got 1: raise the batch size (and drop the last, smaller batch)"
            )
        count = sums.new_tensor([float(len(vectors))])
        totals = sum_over_processes(torch.cat([sums, squares, count]))
        sums, squares = totals[: len(sums)], totals[len(sums) : -1]
        scale = 1 / (totals[-1] * (totals[-1] - 1))
        if factors is not None:
            scale = scale * factors.to(dtype)
        ctx.processes = processes
        ctx.save_for_backward(vectors, sums, scale, kept)
        products = sums.square() - squares
        # A term of one text alone leaves rounding errors, which are all there is where no two texts
        # have a term in common.
        products *= products > 8 * torch.finfo(dtype).eps * squares
        return (products * scale).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        vectors, sums, scale, kept = ctx.saved_tensors
        result = (sums - vectors).mul_(2 * ctx.processes * gradient * scale)
        if kept is not None:
            result.mul_(kept[:, None])
        return result.to(vectors.dtype), None, None


def _pack(vector: Tensor) -> str:
    return base64.b64encode(vector.cpu().float().numpy().astype("<f4").tobytes()).decode("ascii")


def _unpack(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float32)
