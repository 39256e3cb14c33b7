"""What surrogate losses are made of: ratios and advantages, safe off the mask; and metrics as sums and counts."""

from __future__ import annotations

import math

import torch
from attrs import validators
from torch import Tensor

from ...core.components import LossInputs

POSITIVE = validators.and_(validators.gt(0.0), validators.lt(math.inf))
NOT_NEGATIVE = validators.and_(validators.ge(0.0), validators.lt(math.inf))
LOG_RATIO_LIMIT = 20.0
"""Nats that a log-ratio is held to on both sides, so that its exponential stays finite in every dtype."""


def log_ratio_of(inputs: LossInputs, old_logprobs: Tensor | None = None) -> Tensor:
    """[B, T] nats: log pi - log pi_old, held to +-:data:`LOG_RATIO_LIMIT`, zero off the mask.

    ``old_logprobs`` stands in for those of the sampling policy by the trainer. The values are masked before any
    arithmetic: a NaN off the mask must reach neither the loss nor the gradient.
    """
    old_B_T = inputs.old_logprobs if old_logprobs is None else old_logprobs
    return torch.where(inputs.mask, inputs.logprobs - old_B_T, 0.0).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def logprobs_of(inputs: LossInputs) -> Tensor:
    """[B, T] nats: of the policy that trains, zero off the mask."""
    return torch.where(inputs.mask, inputs.logprobs, 0.0)


def advantages_of(inputs: LossInputs) -> Tensor:
    """[B, T]: the advantages, zero off the mask."""
    return torch.where(inputs.mask, inputs.advantages, 0.0)


def row_mean(values_B_T: Tensor, mask_B_T: Tensor) -> Tensor:
    """[B, 1]: the mean over the tokens of each row's mask; 0 for a row without any."""
    counts_B_1 = mask_B_T.sum(1, keepdim=True).clamp(min=1)
    # in float64, since the order in which torch adds up depends on how far the micro-batch is padded
    sums_B_1 = torch.where(mask_B_T, values_B_T, 0.0).sum(1, keepdim=True, dtype=torch.float64)
    return (sums_B_1 / counts_B_1).to(values_B_T.dtype)


def policy_kl(log_ratio_B_T: Tensor, mask_B_T: Tensor) -> tuple[Tensor, Tensor]:
    """The metric ``ppo_kl``: the mean of log pi_old - log pi (nats) estimates KL(old || new)."""
    return -log_ratio_B_T.detach().sum(), mask_B_T.sum()


def share(tokens_B_T: Tensor, mask_B_T: Tensor) -> tuple[Tensor, Tensor]:
    """A metric: which share of the tokens on the mask is among ``tokens_B_T`` (bool)."""
    return (tokens_B_T & mask_B_T).sum(), mask_B_T.sum()
