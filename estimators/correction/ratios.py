"""Ratios of the trainer's probability of a sampled token, or row, to the sampler's, in log space and float64."""

from __future__ import annotations

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Limit in nats: log-ratios are clamped to +- this before they are exponentiated; exp(20) is 4.9e8."""


def token_log_ratios(old_logprobs_B_T: Tensor, sampler_logprobs_B_T: Tensor, mask_B_T: Tensor) -> Tensor:
    """Subtract the sampler's log-probs from the trainer's: [B, T] float64 nats, detached, 0 off the mask."""
    log_ratios_B_T = old_logprobs_B_T.detach().double() - sampler_logprobs_B_T.detach().double()
    return torch.where(mask_B_T, log_ratios_B_T, 0.0)


def row_log_ratios(log_ratios_B_T: Tensor, mask_B_T: Tensor, mean: bool = False) -> Tensor:
    """Sum the log-ratios of each row's sampled tokens, or average them: [B] nats; 0 for a row without any.

    The exponential of the sum is the product of the token ratios, that of the mean their geometric mean.
    """
    sums_B = log_ratios_B_T.sum(1)
    return sums_B / mask_B_T.sum(1).clamp(min=1) if mean else sums_B


def ratios(log_ratios: Tensor) -> Tensor:
    """Exponentiate log-ratios, clamped to +- :data:`LOG_RATIO_LIMIT` so that no ratio is infinite."""
    return log_ratios.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def share(condition: Tensor, among: Tensor) -> float:
    """Return the share of ``among`` (both bool) for which the condition holds; 0 if ``among`` is empty."""
    return float((condition & among).sum() / among.sum().clamp(min=1))
