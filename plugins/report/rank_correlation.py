"""Rank correlations say whether two quantities rise and fall together, whatever the shape of the curve between them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ...core.errors import MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ranks = NDArray[np.float64]


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


def student_quantile(freedom: int) -> float:
    """Return how far from 0 Student's t of so many degrees of freedom is in 5 % of cases, to either side."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
