"""Rank correlations within strata: what differs between strata, such as the task, is no correlation.

The values of each stratum are ranked by themselves, and the deviations from the mean rank are taken together. With one
stratum it is Spearman's rank correlation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .rank_correlation import ranks, student_p

if TYPE_CHECKING:
    from .rank_correlation import Ranks

Strata = Sequence[Sequence[tuple[float, float]]]
"""Pairs of x and y of each stratum."""
EXACT = 5040
"""Largest number of orders of y within the strata that are all gone through for a p-value: those of 7 pairs."""


def rank_correlation(strata: Strata) -> float | None:
    """Return the rank correlation of the pairs within strata; ``None`` if one side is constant in each of them.

    Sums of ranks and of their products are exact, so that the order of the pairs does not change a bit of it.
    """
    return _correlation(_deviations(strata))


def independence_p(strata: Strata) -> float | None:
    """Return the chance of a rank correlation at least as strong, of either sign, if x and y had nothing to do.

    Up to :data:`EXACT` orders it is the share of all orders of y within the strata; of more it follows from Student's
    t, with a degree of freedom less for each stratum and one for the correlation, but is not smaller than the share of
    two orders among all. ``None`` if one side is constant in each stratum.
    """
    deviations = _deviations(strata)
    rho = _correlation(deviations)
    if rho is None:
        return None
    sizes = [len(stratum) for stratum in strata]
    orders = math.prod(map(math.factorial, sizes))
    if orders <= EXACT:
        return _exact(deviations)
    freedom = sum(sizes) - len(sizes) - 1
    t = math.inf if abs(rho) >= 1 else rho * math.sqrt(freedom / (1 - rho**2))
    return max(student_p(t, freedom), 2 / orders)


def jackknife_error(strata: Strata) -> float | None:
    """Return the standard error of the correlation from what leaving out each pair in turn changes.

    ``None`` with fewer than 4 pairs, or if what is left is constant.
    """
    import numpy as np

    count = sum(map(len, strata))
    if count < 4:
        return None
    whole = [_sums(x, y) for x, y in _deviations(strata)]
    known: list[float] = []
    for at, stratum in enumerate(strata):
        values = np.asarray(stratum)
        left = np.stack([np.delete(values, out, axis=0) for out in range(len(stratum))])
        x, y = (ranks(left[..., side]) - len(stratum) / 2 for side in (0, 1))
        others = [sum(sums[which] for other, sums in enumerate(whole) if other != at) for which in range(3)]
        xx, yy, xy = (own + rest for own, rest in zip(_sums(x, y), others, strict=True))
        if not (xx * yy).all():
            return None
        known += (xy / np.sqrt(xx * yy)).tolist()
    mean = math.fsum(known) / count
    return math.sqrt((count - 1) / count * math.fsum((rho - mean) ** 2 for rho in known))


def _sums(x: Ranks, y: Ranks) -> tuple[Ranks, Ranks, Ranks]:
    """Return the sums of squares and products of deviations of ranks, over their last axis."""
    return (x * x).sum(-1), (y * y).sum(-1), (x * y).sum(-1)


def _deviations(strata: Strata) -> list[tuple[Ranks, Ranks]]:
    """Return the ranks of x and of y in each stratum, less their mean."""
    deviations = []
    for stratum in strata:
        x, y = (ranks(side) - (len(stratum) + 1) / 2 for side in zip(*stratum, strict=True))
        deviations.append((x, y))
    return deviations


def _correlation(deviations: Sequence[tuple[Ranks, Ranks]]) -> float | None:
    xx, yy = (sum(float(pair[side] @ pair[side]) for pair in deviations) for side in (0, 1))
    return _product(deviations) / math.sqrt(xx * yy) if xx and yy else None


def _product(deviations: Sequence[tuple[Ranks, Ranks]]) -> float:
    return sum(float(x @ y) for x, y in deviations)


def _exact(deviations: Sequence[tuple[Ranks, Ranks]]) -> float:
    """Return the share of the orders within strata whose product is at least as far from 0."""
    import numpy as np

    products = np.zeros(1)
    for x, y in deviations:
        orders = x[list(itertools.permutations(range(len(x))))]
        products = np.add.outer(products, orders @ y).ravel()
    return float((abs(products) >= abs(_product(deviations))).mean())
