"""Metrics of the distance between the sampler's and the trainer's log-probs of the same tokens."""

from __future__ import annotations

from torch import Tensor

from ....estimators.correction.ratios import ratios, row_log_ratios, token_log_ratios


def mismatch(old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> dict[str, float]:
    """Return the metrics ``mismatch/*``; empty where nothing was sampled.

    With ``d = old_logprobs - sampler_logprobs`` of each sampled token, ``s`` the sum of d over a row's sampled tokens,
    and the B rows that have any:

    * ``k1`` = mean of -d: an unbiased estimate of KL(sampler || trainer), nats per token; may be negative;
    * ``k2`` = mean of d^2 / 2: that KL to second order, never negative, with far less noise;
    * ``abs`` = mean of |d|, nats per token;
    * ``max_ratio``, ``min_ratio`` = largest and smallest exp(d), trainer over sampler;
    * ``seq_max_ratio`` = largest exp(s);
    * ``ess`` = (sum of w)^2 / (B * sum of w^2) with w = exp(s): the share of the rows that an average weighted by w is
      worth, from 1/B to 1, unchanged by a shift of all s. Computed from logarithms, it cannot overflow.

    Exponents of the ratios are clamped to +-20. For independent d of a small variance and rows of n tokens, ``ess`` is
    about exp(-2 n k2): what is a small mismatch of tokens is a large one of long rows.

    Source: Schulman 2020, "Approximating KL divergence", for k1 and k2; Kong 1992 for the effective sample size.

    Args:
        old_logprobs: [B, T] nats, by the trainer, of the policy that sampled.
        sampler_logprobs: [B, T] nats, as the sampler reported them.
        mask: [B, T] bool, the sampled tokens.
    """
    if not bool(mask.any()):
        return {}
    d_B_T = token_log_ratios(old_logprobs, sampler_logprobs, mask)
    d_N = d_B_T[mask]
    s_B = row_log_ratios(d_B_T, mask)[mask.any(1)]
    ess = (2 * s_B.logsumexp(0) - (2 * s_B).logsumexp(0)).exp() / len(s_B)
    values = {
        "k1": -d_N.mean(),
        "k2": d_N.square().mean() / 2,
        "abs": d_N.abs().mean(),
        "max_ratio": ratios(d_N.max()),
        "min_ratio": ratios(d_N.min()),
        "seq_max_ratio": ratios(s_B.max()),
        "ess": ess,
    }
    return {f"mismatch/{name}": float(value) for name, value in values.items()}
