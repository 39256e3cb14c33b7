"""Ratios of the trainer's probability of a sampled token, or row, to the sampler's, in log space and float64."""

from __future__ import annotations

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Nats: log-ratios are clamped to +- this before they are exponentiated; exp(20) is 4.9e8."""


def token_log_ratios(old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> Tensor:
    """[B, T] float64 nats, ``old_logprobs - sampler_logprobs``, detached; 0 off the mask whatever stands there."""
    return torch.where(mask, old_logprobs.detach().double() - sampler_logprobs.detach().double(), 0.0)


def row_log_ratios(log_ratios_B_T: Tensor, mask: Tensor, mean: bool = False) -> Tensor:
    """[B] nats: the sum over the row's sampled tokens, or its mean per token; 0 for a row without any.

    The exponential of the sum is the product of the token ratios, that of the mean their geometric mean.
    """
    sums_B = log_ratios_B_T.sum(1)
    return sums_B / mask.sum(1).clamp(min=1) if mean else sums_B


def ratios(log_ratios: Tensor) -> Tensor:
    """The exponential, of log-ratios clamped to +- :data:`LOG_RATIO_LIMIT`: never infinite."""
    return log_ratios.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def share(condition: Tensor, among: Tensor) -> float:
    """The share of ``among`` (both bool) for which the condition holds; 0 where there is none."""
    return float((condition & among).sum() / among.sum().clamp(min=1))
