"""A loss is normalised in one place, which gives the weight of every token of an optimizer step.

The weights are computed once, from the mask of all rows of the step (every micro-batch of every rank), and travel with
the rows. A micro-batch contributes ``sum(weights * loss)``, and the contributions are added, never averaged. So any
split of the same rows into micro-batches and ranks has the same gradient, and ranks need not exchange counts. (A mean
of micro-batch means, as RAGEN-2 and verl 0.6.1 compute it, changes with the split.) A framework that averages gradients
over ranks or micro-batches, as DeepSpeed does, has that undone by whoever drives it.

In the formulas there are N sampled tokens in all, n_b of them in row b, and R rows with at least one. A row without a
sampled token does not count in R, and an empty mask gives zero weights, not NaN.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ..core.components import LossAggregation


@attrs.frozen
class TokenMean(LossAggregation):
    """Average over all tokens of the optimizer step: each weighs 1 / N. DAPO (Yu et al. 2025), and verl's default."""

    def weights(self, mask_B_T: Tensor, max_length: int) -> Tensor:
        return mask_B_T / mask_B_T.sum().clamp(min=1)


@attrs.frozen
class TokenSum(LossAggregation):
    """Sum over all tokens: each weighs 1, so that a step grows with the number of tokens."""

    def weights(self, mask_B_T: Tensor, max_length: int) -> Tensor:
        return mask_B_T.float()


@attrs.frozen
class SeqMeanTokenSum(LossAggregation):
    """Average over rows the sums over their tokens: each token weighs 1 / R."""

    def weights(self, mask_B_T: Tensor, max_length: int) -> Tensor:
        return mask_B_T / _rows(mask_B_T).clamp(min=1)


@attrs.frozen
class SeqMeanTokenMean(LossAggregation):
    """Average over rows the means over their tokens: each token weighs 1 / (R * n_b). GRPO (Shao et al. 2024)."""

    def weights(self, mask_B_T: Tensor, max_length: int) -> Tensor:
        tokens_B = mask_B_T.sum(1)
        return mask_B_T / (_rows(mask_B_T) * tokens_B)[:, None].clamp(min=1)


@attrs.frozen
class SeqMeanTokenSumNorm(LossAggregation):
    """Divide the sum over all tokens of all rows by a constant length: each weighs 1 / ``rollout.max_context``.

    Despite its name it is not divided by the number of rows; this is the formula of verl 0.6.1. Dr. GRPO (Liu et al.
    2025) divides by a constant, too, so that long rows do not weigh less.
    """

    def weights(self, mask_B_T: Tensor, max_length: int) -> Tensor:
        if max_length < 1:
            raise ValueError(f"max_length is a number of tokens, at least 1, not {max_length}")
        return mask_B_T / torch.tensor(max_length)


def _rows(mask_B_T: Tensor) -> Tensor:
    """Count the rows with a sampled token."""
    return mask_B_T.any(1).sum()
