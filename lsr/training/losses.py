"""What training minimises: ranking losses on scores, and penalties on term weights.

`Objective` is the loss that SparseEncoderTrainer is given. Its columns are the query, its document,
and the same number of negatives for all queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.base.losses.merged_forward import merge_feature_batches
from torch import Tensor, nn
from torch.nn import functional

from lsr.training.dropout import DropoutProbe
from lsr.training.known_positives import take_known_positives
from lsr.training.processes import gather_rows, process_rank
from lsr.training.sparsity import Penalty
from lsr.training.tally import Side, Tally

Ranking = Literal["infonce", "margin_mse", "kl"]


def infonce(
    queries: Tensor, documents: Tensor, temperature: float, left_out: Tensor | None = None
) -> Tensor:
    """Cross-entropy of each query's document among the documents of all queries.

    −log softmax(q · d / T) at the query's own document, over positives and negatives of the whole
    batch in all processes, averaged over queries (arXiv 1807.03748, eq. 4).

    Args:
        queries: shape (B, V).
        documents: shape (C, B, V); [0, i] belongs to query i.
        temperature: T.
        left_out: bool, shape (B, processes · C · B), the documents that a query is not compared
            with, such as its other positives; never its own document. None leaves out none.

    Raises:
        ValueError: there is only one document to choose from.
    """
    candidates = gather_rows(documents.flatten(0, 1))
    if len(candidates) < 2:
        raise ValueError(
            "InfoNCE needs at least 2 documents to choose from, got a batch of one query without "
            "negatives: raise the batch size, or drop the last, smaller batch"
        )
    own = process_rank() * documents.shape[0] * documents.shape[1]
    targets = own + torch.arange(len(queries), device=queries.device)
    logits = queries @ candidates.T / temperature
    if left_out is not None:
        logits = logits.masked_fill(left_out, -math.inf)
    return functional.cross_entropy(logits, targets)


def margin_mse(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of the margins between positive and each negative (arXiv 2010.02666).

    Args:
        scores: of the student, the positive first, shape (B, C), C at least 2.
        labels: of the teachers, the same shape.
    """
    margins = scores[:, :1] - scores[:, 1:]
    return functional.mse_loss(margins, labels[:, :1] - labels[:, 1:])


def kl_divergence(
    scores: Tensor, labels: Tensor, temperature: float, teacher_temperature: float
) -> Tensor:
    """KL(softmax(labels / T_t) ‖ softmax(scores / T)), averaged over queries.

    Each softmax is over the documents of one query. As in the inference-free recipe (arXiv
    2411.04403) there is no factor T², which sentence-transformers' loss has.

    Args:
        scores: of the student, shape (B, C), C at least 2.
        labels: of the teachers, the same shape; a document with −∞ is left out of both softmaxes.
        temperature: T.
        teacher_temperature: T_t.
    """
    left_out = labels == -math.inf
    student = torch.log_softmax((scores / temperature).masked_fill(left_out, -math.inf), dim=1)
    teacher = torch.log_softmax(labels / teacher_temperature, dim=1)
    # Without the mask: 0 · (∞ − ∞), which is NaN.
    terms = teacher.exp() * (teacher - student).masked_fill(left_out, 0.0)
    return terms.sum() / len(labels)


class Objective(CachedLossMixin, nn.Module):  # type: ignore[misc]
    """Σ weight · ranking loss + λ_d · penalty of documents + λ_q · penalty of queries.

    The loss to give to SparseEncoderTrainer. Scores are dot products of vectors, in float32 also
    under autocast. StrengthCallback moves λ after each optimiser step, by what `tally` and `probe`
    have seen of the vectors.

    With `mini_batch_size` the batch passes the model in parts by GradCache (arXiv 2101.06983,
    sentence-transformers' CachedLossMixin), twice, and memory is bounded by a part; loss and
    gradients stay those of the whole batch. For this the model must give rows one by one, without
    batch normalisation.
    """

    model: Any  # the trainer may wrap it
    tally: Tally  # counts the vectors of each training batch
    probe: DropoutProbe  # keeps the last batch

    def __init__(
        self,
        model: Any,
        *,
        rankings: Mapping[str, float],
        temperature: float = 1.0,
        teacher_temperature: float = 1.0,
        penalties: Mapping[Side, Penalty] | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        """An objective for `model`.

        Args:
            model: a SparseEncoder.
            rankings: weight of each ranking loss: "infonce", "margin_mse", "kl".
            temperature: scores are divided by it in "infonce" and "kl", not in "margin_mse".
            teacher_temperature: labels are divided by it in "kl".
            penalties: on "document" (positives and negatives alike) and on "query"; inference-free
                queries have none.
            mini_batch_size: texts in one pass of GradCache; None passes whole batches, once.

        Raises:
            ValueError: an argument is out of range.
        """
        super().__init__()
        _check_settings(rankings, temperature, teacher_temperature, mini_batch_size)
        self.model = model
        self.rankings = dict(rankings)
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature
        self.mini_batch_size = mini_batch_size
        self.uses_gradient_cache = mini_batch_size is not None
        self.penalties = nn.ModuleDict({str(side): of for side, of in (penalties or {}).items()})
        self.tally = Tally()
        self.probe = DropoutProbe(mini_batch_size)
        self._known: Tensor | None = None  # other positives of the last batch's queries
        self._values: dict[str, Tensor] = {}  # components of the last pass of GradCache

    @property
    def sides(self) -> list[Side]:
        """The sides that have a penalty."""
        return [side for side in get_args(Side) if side in self.penalties]

    def penalty(self, side: Side) -> Penalty:
        """The penalty on one side, which must have one."""
        penalty = self.penalties[side]
        assert isinstance(penalty, Penalty)
        return penalty

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted components, which sum to the loss.

        Args:
            sentence_features: of query, document and n negatives, B rows each; there may be more
                queries, after those of the rows. By the keys of `KnownPositives`, where they are
                there, "infonce" leaves out a query's other positives.
            labels: teacher scores; only for "margin_mse" and "kl". Of each row's documents in that
                order, shape (B, n + 1); or, for "kl" alone, of all documents of the batch, column
                after column, for each of N queries, shape (N, B · (n + 1)).

        Raises:
            ValueError: columns or labels are missing or do not fit, or the batch is too small.
        """
        features = [dict(column) for column in sentence_features]
        if len(features) < 2:
            raise ValueError(
                f"training needs the columns query and document, got {len(features)} column(s)"
            )
        self._known = take_known_positives(features)
        self.probe.keep(features[0], features[1])
        if self.mini_batch_size is None:
            queries = self.model(features[0])["sentence_embedding"]
            documents = self._documents(features[1:])
            return self._components(queries, documents, len(features) - 1, labels)
        total: Tensor = CachedLossMixin.forward_cached(self, features, labels)
        # Only the total carries the gradient: one component becomes total − others.
        first, *others = self._values.items()
        rest = sum((value for _, value in others), torch.zeros_like(total))
        return {first[0]: total - rest, **dict(others)}

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """The loss of a batch from its vectors in parts; what GradCache calls."""
        queries, *documents = (torch.cat(column) for column in reps)
        components = self._components(queries, torch.cat(documents), len(documents), labels)
        self._values = {name: value.detach() for name, value in components.items()}
        total = torch.stack(list(components.values())).sum()
        if with_backward:
            total.backward()  # type: ignore[no-untyped-call]
            return total.detach()
        return total

    def get_config_dict(self) -> dict[str, Any]:
        """What sentence-transformers writes into the model card."""
        names = {
            f"{side}_regulariser": type(self.penalty(side).regulariser).__name__
            for side in self.sides
        }
        return {"rankings": self.rankings, "temperature": self.temperature, **names}

    def _documents(self, columns: list[dict[str, Any]]) -> Tensor:
        """Vectors of all documents, column after column, shape (C · B, V)."""
        merged = merge_feature_batches(columns) if len(columns) > 1 else None
        if merged is not None:
            vectors: Tensor = self.model(merged)["sentence_embedding"]
            return vectors
        return torch.cat([self.model(column)["sentence_embedding"] for column in columns])

    def _components(
        self, queries: Tensor, documents: Tensor, columns: int, labels: Tensor | None
    ) -> dict[str, Tensor]:
        # bfloat16 is too coarse for sums of 30,000 products or weights.
        with torch.autocast(queries.device.type, enabled=False):
            components = self._ranking(queries, documents, columns, labels)
            ranking = torch.stack(list(components.values())).sum().detach()
            sides: tuple[tuple[Side, Tensor], ...] = (("document", documents), ("query", queries))
            for side, vectors in sides:
                value = None
                if side in self.penalties:
                    penalty = self.penalty(side)
                    value = penalty.regulariser(vectors)
                    components[f"{side}_penalty"] = penalty.strength.value() * value
                if torch.is_grad_enabled():
                    self.tally.add(side, vectors, value, ranking)
                    seen = len(vectors) // columns if side == "document" else len(vectors)
                    self.probe.count(side, vectors[:seen])
        return components

    def _ranking(
        self, queries: Tensor, documents: Tensor, columns: int, labels: Tensor | None
    ) -> dict[str, Tensor]:
        dtype = torch.promote_types(queries.dtype, torch.float32)
        queries, documents = queries.to(dtype), documents.to(dtype)
        # (C, B, V): a view, since columns stand one after the other.
        by_column = documents.view(columns, -1, documents.shape[1])
        rows = queries[: by_column.shape[1]]
        losses: dict[str, Tensor] = {}
        if "infonce" in self.rankings:
            losses["infonce"] = infonce(rows, by_column, self.temperature, self._known)
        if "margin_mse" in self.rankings or "kl" in self.rankings:
            # Scores of all documents for all queries, or of each row's own.
            whole = "margin_mse" not in self.rankings and (
                labels is not None and labels.shape == (len(queries), len(documents))
            )
            if whole:
                shape = len(queries), len(documents)
                labels = _checked_labels(labels, *shape, left_out=True).to(queries)
                scores = queries @ documents.T
            else:
                labels = _checked_labels(labels, len(rows), columns).to(queries)
                scores = torch.bmm(by_column.transpose(0, 1), rows[:, :, None])[:, :, 0]
            if "margin_mse" in self.rankings:
                losses["margin_mse"] = margin_mse(scores, labels)
            if "kl" in self.rankings:
                temperatures = (self.temperature, self.teacher_temperature)
                losses["kl"] = kl_divergence(scores, labels, *temperatures)
        return {name: self.rankings[name] * loss for name, loss in losses.items()}


def _check_settings(
    rankings: Mapping[str, float],
    temperature: float,
    teacher_temperature: float,
    mini_batch_size: int | None,
) -> None:
    allowed = ", ".join(repr(name) for name in get_args(Ranking))
    if not rankings:
        raise ValueError(f"`rankings` must name at least one of {allowed}")
    for name, weight in rankings.items():
        if name not in get_args(Ranking):
            raise ValueError(f"`rankings` must be of {allowed}, got {name!r}")
        if not 0 < weight < math.inf:
            raise ValueError(f"the weight of {name!r} must be positive and finite, got {weight}")
    named = {"temperature": temperature, "teacher_temperature": teacher_temperature}
    for name, value in named.items():
        if not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be positive and finite, got {value}")
    if mini_batch_size is not None and mini_batch_size < 1:
        raise ValueError(f"`mini_batch_size` must be at least 1, got {mini_batch_size}")


def _checked_labels(
    labels: Tensor | None, queries: int, documents: int, *, left_out: bool = False
) -> Tensor:
    """The labels, checked; −∞ is allowed only where documents may be left out."""
    if labels is None:
        raise ValueError(
            "'margin_mse' and 'kl' need teacher scores: the data have no column `label`"
        )
    if documents < 2:
        raise ValueError("'margin_mse' and 'kl' need at least 1 negative for each query, got none")
    if labels.shape != (queries, documents):
        raise ValueError(
            f"`label` must hold a score for each of {documents} documents of {queries} queries, "
            f"got shape {tuple(labels.shape)}"
        )
    bad = ~torch.isfinite(labels)
    if left_out:
        bad &= labels != -math.inf
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        raise ValueError(
            f"`label` must be finite, got {float(labels[row, column])} for document {column} of "
            f"query {row} of the batch"
        )
    return labels
