"""What training minimises: ranking losses on scores, and penalties on term weights.

`Objective` is the loss that SparseEncoderTrainer is given. Its columns are the query, its document,
and the same number of negatives for all queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.base.losses.merged_forward import merge_feature_batches
from torch import Tensor, nn
from torch.nn import functional

from lsr.training.known_positives import take_known_positives
from lsr.training.processes import gather_rows, process_rank, sum_over_processes
from lsr.training.regularisers import Regulariser, active_terms
from lsr.training.sparsity import Strength

Ranking = Literal["infonce", "margin_mse", "kl"]
Side = Literal["document", "query"]


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
        ValueError: there is but one document to choose from.
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
    # 0 · (∞ − ∞) is no number.
    terms = teacher.exp() * (teacher - student).masked_fill(left_out, 0.0)
    return terms.sum() / len(labels)


class VectorStatistics(NamedTuple):
    """The vectors of one side in one optimiser step, in all processes and accumulated batches."""

    mean_terms: float  # active (not zero) terms of a vector
    zero_share: float  # of the vectors, in [0, 1]
    term_shares: Tensor  # of each term the share of vectors it is active in, float32, shape (V,)
    mean_weight: float  # of active terms; 0 where there are none
    penalty: float  # of the regulariser before λ; 0 without one


class Objective(CachedLossMixin, nn.Module):  # type: ignore[misc]
    """Σ weight · ranking loss + λ_d · penalty of documents + λ_q · penalty of queries.

    The loss to give to SparseEncoderTrainer. Scores are dot products of vectors, in float32 also
    under autocast. λ is what the strengths say; StrengthCallback moves them after each optimiser
    step.

    With `mini_batch_size` the batch passes the model in parts by GradCache (arXiv 2101.06983,
    sentence-transformers' CachedLossMixin), twice, and memory is bounded by a part; loss and
    gradients stay those of the whole batch. For this the model must give rows one by one, without
    batch normalisation.
    """

    model: Any  # the trainer may wrap it

    def __init__(
        self,
        model: Any,
        *,
        rankings: Mapping[str, float],
        temperature: float = 1.0,
        teacher_temperature: float = 1.0,
        document_regulariser: Regulariser | None = None,
        document_strength: Strength | None = None,
        query_regulariser: Regulariser | None = None,
        query_strength: Strength | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        """An objective for `model`.

        Args:
            model: a SparseEncoder.
            rankings: weight of each ranking loss: "infonce", "margin_mse", "kl".
            temperature: that scores are divided by in "infonce" and "kl"; "margin_mse" has none.
            teacher_temperature: that labels are divided by in "kl".
            document_regulariser: penalty on positives and negatives alike; None for none.
            document_strength: its λ.
            query_regulariser: penalty on queries; None for inference-free ones.
            query_strength: its λ.
            mini_batch_size: texts in one pass of GradCache; None passes whole batches, once.

        Raises:
            ValueError: an argument is out of range, or a penalty lacks its λ.
        """
        super().__init__()
        _check_settings(rankings, temperature, teacher_temperature, mini_batch_size)
        self.model = model
        self.rankings = dict(rankings)
        self.temperature = temperature
        self.teacher_temperature = teacher_temperature
        self.mini_batch_size = mini_batch_size
        self.uses_gradient_cache = mini_batch_size is not None
        self.strengths: dict[Side, Strength] = {}
        self.regularisers = nn.ModuleDict()  # of the same sides
        self._regularise("document", document_regulariser, document_strength)
        self._regularise("query", query_regulariser, query_strength)
        # Of the last optimiser step, by side; empty before the first.
        self.statistics: dict[Side, VectorStatistics] = {}
        self.ranking_loss = math.nan  # of the last optimiser step, mean of batches and processes
        self._tallies: dict[Side, _Tally] = {}
        # Of the last batch, queries and positives: what the model takes, mean terms of a vector.
        self._inputs: dict[Side, dict[str, Any]] = {}
        self._terms: dict[Side, Tensor] = {}
        self._known: Tensor | None = None  # other positives of the last batch's queries
        self._values: dict[str, Tensor] = {}  # components of the last pass of GradCache

    def regulariser(self, side: Side) -> Regulariser:
        """The penalty on one side, which must be regularised."""
        regulariser = self.regularisers[side]
        assert isinstance(regulariser, Regulariser)
        return regulariser

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
        # Copies, since modules write into what they are given.
        self._inputs = {"query": dict(features[0]), "document": dict(features[1])}
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

    def take_statistics(self) -> None:
        """Close an optimiser step: what was seen since the last call becomes `statistics`.

        To be called in all processes.
        """
        if not self._tallies:
            return
        taken = {side: tally.take() for side, tally in self._tallies.items()}
        self.statistics = {side: statistics for side, (statistics, _) in taken.items()}
        self.ranking_loss = taken["document"][1]
        self._tallies = {}

    @torch.no_grad()
    def terms_without_dropout(self) -> dict[Side, float]:
        """Of regularised sides, terms of a vector when the model is used over those in training.

        Dropout is noise to the largest of many logits, and changes how many are positive by a
        quarter up or down. Measured on the last batch, queries and positives, which pass the model
        once more, in parts of `mini_batch_size`. A model without dropout is not passed: 1. To be
        called in all processes.
        """
        if not has_dropout(self.model):
            return dict.fromkeys(self.strengths, 1.0)
        ratios: dict[Side, float] = {}
        training = self.model.training
        self.model.eval()
        for side in self.strengths:
            counts = torch.stack([self._terms_in_use(self._inputs[side]), self._terms[side]])
            used, trained = sum_over_processes(counts.float()).tolist()
            ratios[side] = used / trained if trained else 1.0
        self.model.train(training)
        return ratios

    def _terms_in_use(self, inputs: dict[str, Any]) -> Tensor:
        """The mean terms of a vector, float32, by the model as it is set."""
        if self.mini_batch_size is None:
            vectors = self.model(dict(inputs))["sentence_embedding"]
            return active_terms(vectors, dim=1).mean()
        parts = CachedLossMixin.embed_minibatch_iter(
            self, inputs, with_grad=False, copy_random_state=False
        )
        return torch.cat([active_terms(vectors, dim=1) for vectors, _ in parts]).mean()

    def get_config_dict(self) -> dict[str, Any]:
        """What sentence-transformers writes into the model card."""
        names = {
            f"{side}_regulariser": type(self.regulariser(side)).__name__ for side in self.strengths
        }
        return {"rankings": self.rankings, "temperature": self.temperature, **names}

    def _regularise(
        self, side: Side, regulariser: Regulariser | None, strength: Strength | None
    ) -> None:
        if regulariser is None and strength is None:
            return
        if regulariser is None or strength is None:
            raise ValueError(f"`{side}_regulariser` and `{side}_strength` need each other")
        self.regularisers[side] = regulariser
        self.strengths[side] = strength

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
        # Sums of 30,000 products, and of as many weights, are no work for bfloat16.
        with torch.autocast(queries.device.type, enabled=False):
            components = self._ranking(queries, documents, columns, labels)
            ranking = torch.stack(list(components.values())).sum().detach()
            sides: tuple[tuple[Side, Tensor], ...] = (("document", documents), ("query", queries))
            for side, vectors in sides:
                penalty = None
                if side in self.strengths:
                    penalty = self.regulariser(side)(vectors)
                    components[f"{side}_penalty"] = self.strengths[side].value() * penalty
                if torch.is_grad_enabled():
                    self._tallies.setdefault(side, _Tally()).add(vectors, penalty, ranking)
                    seen = len(vectors) // columns if side == "document" else len(vectors)
                    self._terms[side] = active_terms(vectors[:seen], dim=1).mean()
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


class _Tally:
    """Counts over the vectors of one side in one process, kept on their device."""

    def __init__(self) -> None:
        self._terms: Tensor | None = None  # (V,): vectors that each term is active in
        # (6,): vectors, without a term, sum of weights, batches, penalties, ranking losses.
        self._sums: Tensor | None = None

    @torch.no_grad()
    def add(self, vectors: Tensor, penalty: Tensor | None, ranking: Tensor) -> None:
        terms = active_terms(vectors, dim=0)
        sums = torch.stack(
            [
                terms.new_tensor(float(len(vectors))),
                (active_terms(vectors, dim=1) == 0).sum().float(),
                vectors.sum(dtype=torch.float32),
                terms.new_tensor(1.0),
                terms.new_tensor(0.0) if penalty is None else penalty.float(),
                ranking.float(),
            ]
        )
        self._terms = terms if self._terms is None else self._terms + terms
        self._sums = sums if self._sums is None else self._sums + sums

    def take(self) -> tuple[VectorStatistics, float]:
        """Over all processes, and the mean ranking loss."""
        assert self._terms is not None and self._sums is not None
        totals = sum_over_processes(torch.cat([self._sums, self._terms]))
        vectors, zero, weights, batches, penalties, rankings = totals[:6].tolist()
        terms = totals[6:]
        active = float(terms.sum())
        statistics = VectorStatistics(
            mean_terms=active / vectors,
            zero_share=zero / vectors,
            term_shares=terms / vectors,
            mean_weight=weights / active if active else 0.0,
            penalty=penalties / batches,
        )
        return statistics, rankings / batches


def has_dropout(model: nn.Module) -> bool:
    """Whether any part of the model drops activations in training.

    Such a part is a Dropout module with a probability above 0, or any module with an attribute
    above 0 whose name ends in "dropout", as transformers' attention layers have it.
    """
    return any(
        (isinstance(module, nn.Dropout) and module.p > 0)
        or any(
            name.endswith("dropout") and isinstance(value, float) and value > 0
            for name, value in vars(module).items()
        )
        for module in model.modules()
    )


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
    """The labels; −∞ is one only where documents may be left out."""
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
