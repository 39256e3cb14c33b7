"""The gradient of each term of the loss is measured on a bucket, as if a step had the groups of that bucket alone.

The tokens are weighted by the aggregation of the run over the bucket, and the policy loss prepares itself on it.
Advantages are those of the whole batch U, so that buckets differ in what they hold and not in how it was credited.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import attrs
import torch
from torch import Tensor, nn

from ....core.components import Scores
from ...training.processes.ranks import Ranks
from ...training.step.batch import Batch
from ...training.step.losses import PolicyObjective
from ..estimation.passes import Outputs, Passes, inner
from ..estimation.update import Update, weights
from .norms import FOR_ERRORS, Norm, norm_of


@attrs.frozen(eq=False)
class OnBucket:
    """The gradients on a bucket are known by their norms, of each term and of each group's part in it."""

    norms: dict[str, Norm]
    """Norm by term."""
    parts: dict[str, Tensor]
    """By term the norm of n g_i for each of its n groups: [n], what a step of such groups alone would have."""
    sequences: int
    tokens: int


@attrs.frozen(eq=False)
class Gradients:
    """An object of this class measures gradients of one update at one policy."""

    policy: nn.Module
    update: Update
    weighting: str
    """Weights of tokens; see :func:`~..estimation.update.weights`."""
    max_length: int | None
    ranks: Ranks
    size: int
    """Rows per pass with a gradient."""
    forward_size: int | None = None
    """Rows per pass without, by default ``size``."""

    def on(self, groups: Sequence[int]) -> OnBucket:
        """Measure the gradient of every term on these groups, by their positions in ``rollouts.group_ids_P``."""
        rollouts = self.update.rollouts
        keep_P = self._only(groups)
        weights_B_T = self._weights(keep_P)
        batch = attrs.evolve(self.update.batch, weights=weights_B_T)
        batch = self.update.objective.prepare(batch, None) if groups else batch
        rescaled_n = torch.tensor([self._rescaled(weights_B_T, groups, left) for left in groups], dtype=torch.float64)
        norms, parts = {}, {}
        for term in self.update.objective.terms:
            squares_n, products_n = self._products(partial(_term, self.update.objective, term), batch, groups)
            norms[term] = norm_of(squares_n, products_n, rescaled_n)
            parts[term] = len(groups) * squares_n.sqrt()
        tokens = int(rollouts.mask[rollouts.rows_of(keep_P)].sum())
        return OnBucket(norms, parts, int(rollouts.episodes_of(keep_P).sum()), tokens)

    def _products(self, loss: partial[Tensor], batch: Batch, groups: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return |g_i|^2 and S . g_i ([n] float64 each) of the groups' parts of the gradient of a loss, S their sum.

        The products take one forward-mode pass along S, so that no more than two gradients are held at once.
        """
        squares: list[float] = []
        total: dict[str, Tensor] = {}
        for group in groups:
            gradient = self._passes(batch, self._rows([group])).loss_gradient(loss)
            squares.append(inner(gradient, gradient))
            total = {name: total[name] + g if total else g for name, g in gradient.items()}
        squares_n = torch.tensor(squares, dtype=torch.float64)
        if len(groups) < FOR_ERRORS:
            # without errors only their sum |S|^2 is read
            whole = inner(total, total) if total else 0.0
            return squares_n, torch.full((len(groups),), whole / max(1, len(groups)), dtype=torch.float64)
        rows_B = self._rows(groups)
        rates_B = self._passes(batch, rows_B).loss_rates(loss, total).sum(1)
        groups_B = self.update.rollouts.groups[rows_B]
        ids_n = self.update.rollouts.group_ids_P[list(groups)]
        return squares_n, torch.stack([rates_B[groups_B == group].sum() for group in ids_n])

    def _passes(self, batch: Batch, rows_B: Tensor) -> Passes:
        return Passes(self.policy, batch.take(rows_B), self.size, self.ranks, self.forward_size)

    def _rows(self, groups: Sequence[int]) -> Tensor:
        return self.update.rollouts.rows_of(self._only(groups)).nonzero().flatten()

    def _only(self, groups: Sequence[int]) -> Tensor:
        keep_P = torch.zeros(len(self.update.rollouts.group_ids_P), dtype=torch.bool)
        keep_P[list(groups)] = True
        return keep_P

    def _weights(self, keep_P: Tensor) -> Tensor:
        """Return the weights of a step on these groups alone: [B, T], zero for all other rows."""
        rollouts = self.update.rollouts
        weights_B_T = torch.zeros(rollouts.mask.shape)
        if bool(keep_P.any()):
            weights_B_T[rollouts.rows_of(keep_P)] = weights(rollouts.select(keep_P), self.weighting, self.max_length)
        return weights_B_T

    def _rescaled(self, weights_B_T: Tensor, groups: Sequence[int], left: int) -> float:
        """Return how much larger the weights of the other groups are without the group ``left``."""
        if len(groups) == 1:
            return 1.0
        keep_P = self._only([group for group in groups if group != left])
        before = float(weights_B_T[self.update.rollouts.rows_of(keep_P)].double().sum())
        return float(self._weights(keep_P).double().sum()) / before if before else 1.0


def _term(objective: PolicyObjective, name: str, scores: Outputs, part: Batch) -> Tensor:
    return objective.term(name, Scores(**scores), part)
