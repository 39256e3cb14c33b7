"""Losses that hold back the few tokens whose advantage goes with their log-prob: these are what makes entropy fall."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from ...core.components import LossInputs, LossOutput, PolicyLoss
from .clipped import Ppo, above_one
from .ratios import NOT_NEGATIVE, advantages_of, log_ratio_of, policy_kl, share

SHARE = attrs.validators.and_(attrs.validators.gt(0.0), attrs.validators.le(1.0))


def covariances(batch: LossInputs) -> Tensor:
    """[B, T]: ``(A - mean A) (log pi - mean log pi)``, the means over all tokens on the mask; -inf off the mask.

    Their mean is the covariance of advantage and log-prob, which to first order says how fast entropy falls.
    """
    advantages_B_T, logprobs_B_T = batch.advantages[batch.mask], batch.logprobs[batch.mask]
    products_B_T = batch.logprobs.new_full(batch.mask.shape, -torch.inf)
    products_B_T[batch.mask] = (advantages_B_T - advantages_B_T.mean()) * (logprobs_B_T - logprobs_B_T.mean())
    return products_B_T


def count_of(ratio: float, mask_B_T: Tensor) -> int:
    """How many tokens a share is: rounded down, at least one."""
    return max(int(ratio * int(mask_B_T.sum())), 1)


@attrs.frozen
class ClipCov(Ppo):
    """PPO's loss, in which a few tokens of high covariance have no gradient.

    Among the tokens of an optimizer step that PPO does not clip and whose covariance
    ``(A - mean A) (log pi - mean log pi)`` lies between ``cov_low`` and ``cov_high``, a share ``ratio`` of all tokens
    is drawn at random and its loss set to 0. The means are over the optimizer step, log pi is that before it.

    Source: Cui et al. 2025 (arXiv 2505.22617) with its published bounds (of the ratio, too); formula as in verl 0.9.1
    (``clip_cov``), which has no dual clip, draws without a seed, and takes each micro-batch by itself; here the draw
    follows from the training step and its rows, and no split into micro-batches changes it.
    """

    clip_low: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))
    """The ratio stops counting below 1 minus this."""
    clip_high: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))
    """The ratio stops counting above 1 plus this."""
    dual_clip: float | None = attrs.field(default=None, validator=above_one)
    """Bound on the ratio where the advantage is negative; ``null`` sets none."""
    ratio: float = attrs.field(default=2e-4, validator=SHARE)
    """Share of the tokens of an optimizer step that are held back; at least one is."""
    cov_low: float = 1.0
    """Only tokens with more covariance than this are drawn."""
    cov_high: float = 5.0
    """Only tokens with less covariance than this are drawn."""

    needs = frozenset({"minibatch", "logprobs"})

    def __attrs_post_init__(self) -> None:
        if not self.cov_low < self.cov_high:
            raise ValueError(f"cov_high must be more than cov_low, {self.cov_low}, got {self.cov_high}")

    def prepare(self, batch: LossInputs) -> Mapping[str, Tensor]:
        products_B_T = covariances(batch)
        candidates_B_T = (products_B_T > self.cov_low) & (products_B_T < self.cov_high) & ~self._clipped(batch)
        places = candidates_B_T.nonzero()
        generator = torch.Generator().manual_seed(_seed(batch))
        drawn = places[torch.randperm(len(places), generator=generator)[: count_of(self.ratio, batch.mask)]]
        held_B_T = torch.zeros_like(batch.mask)
        held_B_T[drawn[:, 0], drawn[:, 1]] = True
        return {"held": held_B_T}

    def __call__(self, inputs: LossInputs) -> LossOutput:
        held_B_T = inputs.prepared["held"]
        loss_B_T, metrics = super().__call__(inputs)
        return LossOutput(torch.where(held_B_T, 0.0, loss_B_T), {**metrics, "cov_held": share(held_B_T, inputs.mask)})

    def _clipped(self, batch: LossInputs) -> Tensor:
        """[B, T] bool: tokens that the clip already keeps from training."""
        ratios_B_T, advantages_B_T = log_ratio_of(batch).exp(), advantages_of(batch)
        held_B_T = ratios_B_T.clamp(1 - self.clip_low, 1 + self.clip_high)
        return -advantages_B_T * held_B_T > -advantages_B_T * ratios_B_T


@attrs.frozen
class KlCov(PolicyLoss):
    """A policy gradient with a penalty on the few tokens of highest covariance: these may not move far.

    ``loss = -A r`` with ``r = pi / pi_old``, and ``-A r + coef |log r|`` for the share ``ratio`` of the tokens of an
    optimizer step with the largest ``(A - mean A) (log pi - mean log pi)``. Nothing is clipped.

    Source: Cui et al. 2025 (arXiv 2505.22617); share as in verl 0.9.1 (``kl_cov``), whose configuration has the
    coefficient 0.1 and whose function defaults to the paper's 1. verl takes each micro-batch by itself; here the means
    and the share are of the whole optimizer step.
    """

    ratio: float = attrs.field(default=2e-4, validator=SHARE)
    """Share of the tokens of an optimizer step that are penalised; at least one is."""
    coef: float = attrs.field(default=1.0, validator=NOT_NEGATIVE)
    """Weight of the penalty, per nat."""

    needs = frozenset({"minibatch", "logprobs"})

    def prepare(self, batch: LossInputs) -> Mapping[str, Tensor]:
        products_B_T = covariances(batch).flatten()
        largest = products_B_T.topk(count_of(self.ratio, batch.mask)).indices
        held_B_T = torch.zeros_like(products_B_T, dtype=torch.bool)
        held_B_T[largest] = True
        return {"held": held_B_T.reshape(batch.mask.shape) & batch.mask}

    def __call__(self, inputs: LossInputs) -> LossOutput:
        mask_B_T, held_B_T = inputs.mask, inputs.prepared["held"]
        log_ratios_B_T = log_ratio_of(inputs)
        penalty_B_T = torch.where(held_B_T, self.coef * log_ratios_B_T.abs(), 0.0)
        loss_B_T = penalty_B_T - advantages_of(inputs) * log_ratios_B_T.exp()
        return LossOutput(
            loss_B_T, {"cov_held": share(held_B_T, mask_B_T), "ppo_kl": policy_kl(log_ratios_B_T, mask_B_T)}
        )


def _seed(batch: LossInputs) -> int:
    """A seed that follows from the training step and the rows of the optimizer step."""
    rows = 0 if batch.rows is None else int((batch.rows * (torch.arange(len(batch.rows)) + 1)).sum())
    return batch.step * 1_000_003 + rows
