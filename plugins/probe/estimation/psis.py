"""Importance weights are smoothed by a Pareto fit (Vehtari and others: Pareto Smoothed Importance Sampling, JMLR 2024).

The largest weights are replaced by the expected order statistics of a generalised Pareto distribution that is fitted to
them, and its shape k says how heavy the tail is: above 0.7 the estimate cannot be trusted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def smooth(log_weights: Tensor) -> tuple[Tensor, float]:
    """Return smoothed log-weights ([S], on the scale of the given ones) and the shape k of their tail.

    The tail is the largest min(S / 5, 3 sqrt(S)) weights; with fewer than five of them, or with equal ones, nothing is
    smoothed and k is NaN. No smoothed weight is larger than the largest raw one.
    """
    count = len(log_weights)
    tail = math.ceil(min(0.2 * count, 3 * math.sqrt(count)))
    if tail < 5:
        return log_weights, math.nan
    largest = log_weights.max()
    shifted, order = (log_weights - largest).sort()
    cutoff = max(float(shifted[-tail - 1]), math.log(torch.finfo(torch.float64).tiny))
    excess = shifted[-tail:].exp() - math.exp(cutoff)
    if not float(excess[0]) > 0 or float(excess[-1] - excess[0]) <= 0:
        return log_weights, math.nan
    k, sigma = fit_generalised_pareto(excess)
    levels = (torch.arange(tail, dtype=torch.float64) + 0.5) / tail
    quantiles = sigma * torch.expm1(-k * torch.log1p(-levels)) / k if k else -sigma * torch.log1p(-levels)
    smoothed = shifted.clone()
    smoothed[-tail:] = (quantiles + math.exp(cutoff)).log().clamp(max=0.0)
    result = torch.empty_like(log_weights)
    result[order] = smoothed + largest
    return result, k


def fit_generalised_pareto(excess: Tensor) -> tuple[float, float]:
    """Return shape k and scale sigma of ascending positive numbers, by the estimate of Zhang and Stephens.

    It is an empirical Bayes estimate. As in the paper on smoothing, k is drawn towards 0.5 with the weight of ten
    further observations. Source: A new and efficient estimation method for the generalized Pareto distribution,
    Technometrics 51 (2009).
    """
    n = len(excess)
    grid = 30 + int(math.sqrt(n))
    quartile = float(excess[int(n / 4 + 0.5) - 1])
    points = torch.arange(1, grid + 1, dtype=torch.float64) - 0.5
    theta = 1 / float(excess[-1]) + (1 - (grid / points).sqrt()) / 3 / quartile
    shapes = torch.log1p(-theta[:, None] * excess[None]).mean(1)
    likelihood = n * ((-theta / shapes).log() - shapes - 1)
    posterior = (likelihood - likelihood.logsumexp(0)).exp()
    mean_theta = float((theta * posterior).sum())
    k = float(torch.log1p(-mean_theta * excess).mean())
    sigma = -k / mean_theta
    return (n * k + 5) / (n + 10), sigma
