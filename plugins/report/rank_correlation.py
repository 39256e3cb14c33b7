"""Rank correlations say whether two quantities rise and fall together, whatever the shape of the curve between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from operator import mul

EXACT = 7
"""Largest number of pairs whose orders are all gone through for a p-value: 5040 orders."""


def ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, from 1 on; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranked = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for at in order[start:end]:
            ranked[at] = (start + 1 + end) / 2
        start = end
    return ranked


def correlation(x_ranks: Sequence[float], y_ranks: Sequence[float]) -> float | None:
    """Return Spearman's rho of two lists of ranks (Pearson's correlation of them); ``None`` if one is constant.

    Sums of ranks and of their products are exact, so that the order of the pairs does not change a bit of it.
    """
    spreads = _product(x_ranks, x_ranks) * _product(y_ranks, y_ranks)
    return _product(x_ranks, y_ranks) / math.sqrt(spreads) if spreads else None


def _product(x_ranks: Sequence[float], y_ranks: Sequence[float]) -> float:
    """Return the sum of products of the ranks less their mean."""
    count = len(x_ranks)
    return sum(map(mul, x_ranks, y_ranks)) - count * (count + 1) ** 2 / 4


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation of pairs; ``None`` if one side of them is constant."""
    return correlation(ranks(x), ranks(y))


def partial(xy: float | None, xz: float | None, yz: float | None) -> float | None:
    """Return the correlation of x and y with z held fixed, from the three correlations of pairs.

    ``None`` if one of them is not known, or if z alone decides the order of x or of y.
    """
    if xy is None or xz is None or yz is None:
        return None
    left = (1 - xz**2) * (1 - yz**2)
    return max(-1.0, min(1.0, (xy - xz * yz) / math.sqrt(left))) if left > 1e-12 else None


def student_p(t: float, freedom: int) -> float:
    """Return the chance that Student's t of so many degrees of freedom is as far from 0 as ``t``, to either side.

    The finite sums are those of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan2(abs(t), math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for at in range(freedom // 2):
        total += term
        above = 2 * at + 1 + odd
        term *= above / (above + 1) * cosine**2
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1 - inside))


def independence_p(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return the chance of a rank correlation at least as strong, of either sign, if x and y had nothing to do.

    Up to :data:`EXACT` pairs it is the share of all orders of y; of more pairs it follows from Student's t, as is
    usual, but is not smaller than the share of two orders among all. ``None`` if one side is constant.
    """
    x_ranks, y_ranks = ranks(x), ranks(y)
    rho = correlation(x_ranks, y_ranks)
    if rho is None:
        return None
    count = len(x_ranks)
    if count <= EXACT:
        strength = abs(_product(x_ranks, y_ranks))
        orders = itertools.permutations(y_ranks)
        return sum(abs(_product(x_ranks, order)) >= strength for order in orders) / math.factorial(count)
    t = math.inf if abs(rho) == 1 else rho * math.sqrt((count - 2) / (1 - rho**2))
    return max(student_p(t, count - 2), 2 / math.factorial(count))


def jackknife_error(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return the standard error of Spearman's rho from what leaving out each pair in turn changes.

    ``None`` with fewer than 4 pairs, or if what is left is constant.
    """
    count = len(x)
    without = [spearman([*x[:at], *x[at + 1 :]], [*y[:at], *y[at + 1 :]]) for at in range(count)]
    known = [rho for rho in without if rho is not None]
    if count < 4 or len(known) < count:
        return None
    mean = math.fsum(known) / count
    return math.sqrt((count - 1) / count * math.fsum((rho - mean) ** 2 for rho in known))
