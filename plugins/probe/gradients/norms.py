"""The norm of a gradient that was measured on few groups is estimated with and without the noise in it.

With g_i the part of group i, S their sum over n groups and y_i = n g_i, S is the mean of the y_i. Its squared norm is
too large by the noise of that mean: E |S|^2 = |E S|^2 + tr Cov(y) / n. Pairs of different groups have no such part:

    square = n / (n - 1) * (|S|^2 - sum_i |g_i|^2) = 1 / (n (n - 1)) * sum over i != j of y_i . y_j

is a U-statistic, with E square = |E S|^2 for independent groups whose weights do not depend on each other. It may be
negative. Only n inner products S . g_i and n squares are needed, so that no two gradients of groups are kept.
"""

from __future__ import annotations

import functools
import math

import attrs
import torch
from torch import Tensor

from ..small_samples import NORMAL_95, t_quantile

CLEAR = 2.0
"""Standard errors that a squared norm must be above 0 at least to be told from noise."""
FOR_ERRORS = 3
"""Groups that a standard error needs: without one of them, there must still be a pair."""


@attrs.frozen
class Norm:
    """The norm of the gradient of one term on the groups of one bucket; ``None`` is what so few groups do not give."""

    norm: float | None
    """Norm |S| of the gradient itself, noise included."""
    norm_se: float | None
    square: float | None
    """Unbiased estimate of the squared norm of the expected gradient, which may be negative; from two groups on."""
    square_se: float | None

    @property
    def clear(self) -> bool | None:
        """Whether the squared norm is at least :data:`CLEAR` standard errors above 0; ``None`` without an error."""
        if self.square is None or self.square_se is None:
            return None
        return self.square > 0 and self.square >= CLEAR * self.square_se

    @property
    def without_noise(self) -> float | None:
        """Root of the unbiased square; 0 where that is negative."""
        return None if self.square is None else math.sqrt(max(self.square, 0.0))


def norm_of(squares_n: Tensor, products_n: Tensor, rescaled_n: Tensor) -> Norm:
    """Return the norm of a sum of gradients of groups, with the unbiased square and jackknife errors over the groups.

    Args:
        squares_n: [n] |g_i|^2.
        products_n: [n] S . g_i with S the sum of all g_i.
        rescaled_n: [n] factor of the parts of the other groups where group i is left out of the bucket, by the
            aggregation of the loss; n / (n - 1) for a mean over groups, and 1 for a sum.
    """
    n = len(squares_n)
    if n == 0:
        return Norm(None, None, None, None)
    whole, noise = products_n.sum().clamp(min=0), squares_n.sum()
    if n == 1:
        return Norm(float(whole.sqrt()), None, None, None)
    square = n / (n - 1) * float(whole - noise)
    if n < FOR_ERRORS:
        return Norm(float(whole.sqrt()), None, square, None)
    # a sum over fewer groups is smaller than that over all, and must not count as spread
    scale_n = rescaled_n if bool((rescaled_n != 1).any()) else rescaled_n * n / (n - 1)
    rest_n = (whole - 2 * products_n + squares_n).clamp(min=0)
    square_n = scale_n**2 * (n - 1) / (n - 2) * (rest_n - (noise - squares_n))
    return Norm(float(whole.sqrt()), _jackknife(scale_n * rest_n.sqrt()), square, _jackknife(square_n))


def _jackknife(without_n: Tensor) -> float:
    """Return the standard error from the values without one group each, wider for few groups by Student's t."""
    n = len(without_n)
    return _wider(n) * float((torch.var(without_n, correction=0) * (n - 1)).sqrt())


@functools.cache
def _wider(groups: int) -> float:
    return t_quantile(0.975, groups - 1) / NORMAL_95
