"""Standard errors of few prompts are widened, since their spread is itself hardly known and comes out too small.

A predicted change has a product of two centred quantities in it, entropy and score. Where the few prompts that make it
large are missing, both it and its standard error come out small, so that 2 standard errors hold the truth less often
than they should. Student's t with half as many degrees of freedom as prompts, less one, restores that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch

FEW = 16
"""Prompts of E below which errors are widened; from there on the standard errors hold within 20 % or so."""
NORMAL_95 = 1.959964
"""Standard deviations to either side that hold 95 % of a normal distribution."""


@functools.cache
def widening(prompts: int) -> float:
    """Return the factor for a standard error from so many prompts, with which 1.96 errors hold in 95 of 100 cases.

    It is t(0.975, prompts / 2 - 1) / 1.96 below :data:`FEW` prompts, else 1.
    """
    if prompts >= FEW:
        return 1.0
    return t_quantile(0.975, max(1.0, prompts / 2 - 1)) / NORMAL_95


@functools.cache
def widening_of_blocks(blocks: int, prompts: int) -> float:
    """Return the factor for a standard error from the differences of so many blocks of these prompts.

    Sums over blocks of many prompts are nearly normal, so blocks alone leave one degree of freedom less than they are.
    """
    return max(widening(prompts), t_quantile(0.975, max(1, blocks - 1)) / NORMAL_95)


def widened(se: float, prompts: int) -> float:
    """Return the standard error that is stated; NaN stays NaN."""
    return se * widening(prompts)


def as_it_came(result: Mapping[str, Any], se: float) -> float:
    """Return a standard error of a probe's results as it was before it was widened.

    Its square is the variance in the mean over runs, so that several runs together are judged by it.
    """
    return se / (result.get("small_sample") or {}).get("widened_by", 1.0)


def t_quantile(share: float, freedom: float) -> float:
    """Return the quantile of Student's t distribution, for a share of a half or more.

    With t = sqrt(freedom) tan(a) the density of a is proportional to cos(a)^(freedom - 1); its integral by the
    trapezoid rule is right to four digits.
    """
    angles = torch.linspace(0, math.pi / 2, 100_001, dtype=torch.float64)
    density = angles.cos().clamp(min=0) ** (freedom - 1)
    below = torch.cumulative_trapezoid(density, angles)
    index = int(torch.searchsorted(below, (2 * share - 1) * below[-1]))
    return math.sqrt(freedom) * math.tan(float(angles[index + 1]))
