"""Rank correlations say whether two quantities rise and fall together, whatever the shape of the curve between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...core.errors import MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ranks = NDArray[np.float64]

EXACT = 7
"""Largest number of pairs whose orders are all gone through for a p-value: 5040 orders."""


def require_scipy() -> None:
    """Raise MissingExtraError if scipy is not installed, which only correlations and rankings of a report need."""
    try:
        import scipy.stats  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "rank correlations need scipy, and so do rankings", str(error), "pip install 'uncollapse[train]'"
        ) from error


def ranks(values: Any) -> Ranks:
    """Return the rank of each value [..., n] in its row, from 1 on; equal values share the mean of their ranks."""
    from scipy.stats import rankdata

    ranked: Ranks = rankdata(values, axis=-1)
    return ranked


def correlation(x_ranks: Ranks, y_ranks: Ranks) -> float | None:
    """Return Spearman's rho of the ranks of n pairs (Pearson's correlation of them); ``None`` if one side is constant.

    Sums of ranks and of their products are exact, so that the order of the pairs does not change a bit of it.
    """
    spreads = _product(x_ranks, x_ranks) * _product(y_ranks, y_ranks)
    return _product(x_ranks, y_ranks) / math.sqrt(spreads) if spreads else None


def _product(x_ranks: Ranks, y_ranks: Ranks) -> float:
    """Return the sum of products of the ranks less their mean."""
    count = len(x_ranks)
    return float(x_ranks @ y_ranks) - count * (count + 1) ** 2 / 4


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
    """Return the chance that Student's t of so many degrees of freedom is as far from 0 as ``t``, to either side."""
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(t)))


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
        orders = x_ranks[list(itertools.permutations(range(count)))]
        products = orders @ y_ranks - count * (count + 1) ** 2 / 4
        return float((abs(products) >= abs(_product(x_ranks, y_ranks))).mean())
    t = math.inf if abs(rho) == 1 else rho * math.sqrt((count - 2) / (1 - rho**2))
    return max(student_p(t, count - 2), 2 / math.factorial(count))


def jackknife_error(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return the standard error of Spearman's rho from what leaving out each pair in turn changes.

    ``None`` with fewer than 4 pairs, or if what is left is constant.
    """
    count = len(x)
    if count < 4:
        return None
    x_ranks, y_ranks = (ranks([[*side[:at], *side[at + 1 :]] for at in range(count)]) for side in (x, y))
    known = [rho for pair in zip(x_ranks, y_ranks, strict=True) if (rho := correlation(*pair)) is not None]
    if len(known) < count:
        return None
    mean = math.fsum(known) / count
    return math.sqrt((count - 1) / count * math.fsum((rho - mean) ** 2 for rho in known))
