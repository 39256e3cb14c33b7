"""The base of all variance estimators checks what they are given and says why there is no number."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from ...core.components import VarianceEstimator
from ...core.errors import RunError
from .terms import Estimate, Status, Terms

CONDITIONAL_E = "conditional_E: of deltaH1 over draws of E, with U (and so the update) held fixed"
CONDITIONAL_U = "conditional_U: of deltaH1 over draws of U, with E held fixed"
TOTAL = "total: of deltaH1 over independent draws of E and U"
TOTAL_ONE_BATCH = "total, one batch: of deltaH1 = eta * U-statistic over draws of one batch that is both E and U"
MEASURED_CHANGE = "of the importance-sampled deltaH_true over draws of E, with the update held fixed"


class Degenerate(Exception):  # noqa: N818 - a way out, not an error
    """The terms hold no variance: the exception says why, and how many units there are."""

    def __init__(self, status: Status, reason: str, n: int = 0) -> None:
        super().__init__(reason)
        self.status = status
        self.n = n


@attrs.frozen
class Result:
    """A result holds the numbers of an estimate, before estimand and units are added to them."""

    value: float
    """Quantity that the variance belongs to, in the unit of the estimator."""
    var: float | None
    """Variance of the value; ``None`` if the value has no standard error here."""
    n: int
    """Number of independent units."""
    extra: Mapping[str, float] = attrs.field(factory=dict)
    status: Status = "ok"
    reason: str = ""


class Estimator(VarianceEstimator):
    """The base of every variance estimator; a subclass defines ``measure`` and says what it needs."""

    __slots__ = ()
    needs: ClassVar[frozenset[str]]
    estimand: ClassVar[str]
    units: ClassVar[str]

    def estimate(self, terms: Terms) -> Estimate:
        """Estimate the standard error in float64. Terms without a variance give a status.

        Raises:
            RunError: a term that the estimator needs is missing.
        """
        missing = sorted(name for name in self.needs if getattr(terms, name) is None)
        if missing:
            raise RunError(
                f"the variance estimator {type(self).__name__} lacks {', '.join(missing)}",
                "terms",
                "measure what the estimator declares in needs",
            )
        try:
            _check_finite(terms, self.needs)
            result = self.measure(terms)
            if not (math.isfinite(result.value) and math.isfinite(result.var or 0.0)):
                raise Degenerate("non_finite", "a sum overflows float64 or divides by 0", result.n)
        except Degenerate as no_variance:
            # without a variance there is no number that could mislead, only the reason
            return Estimate(
                estimand=self.estimand,
                units=self.units,
                n=no_variance.n,
                status=no_variance.status,
                reason=str(no_variance),
                measured_in=self.measured_in(terms),
            )
        return Estimate(
            estimand=self.estimand,
            units=self.units,
            n=result.n,
            status=result.status,
            reason=result.reason,
            value=result.value,
            var=math.nan if result.var is None else result.var,
            se=math.nan if result.var is None else math.sqrt(result.var),
            measured_in=self.measured_in(terms),
            extra=result.extra,
        )

    def measured_in(self, terms: Terms) -> str:
        """Name the unit of the value and of its standard error."""
        return terms.measured_in

    @abstractmethod
    def measure(self, terms: Terms) -> Result:
        """Compute the result from terms that are present and finite. Raises Degenerate if they hold no variance."""


def variance_of_mean(x_N: Tensor) -> float:
    """Divide the sum of (x - mean)^2 by N (N - 1), in two passes. Raises Degenerate as :func:`require_variance`."""
    n = require_variance(x_N)
    return float((x_N - x_N.mean()).square().sum()) / (n * (n - 1))


def jackknife_variance(left_out_N: Tensor) -> float:
    """Return (N - 1) / N * sum (x - mean)^2 of the N results that leave out one unit each."""
    n = len(left_out_N)
    return (n - 1) / n * float((left_out_N - left_out_N.mean()).square().sum())


def require_variance(x_N: Tensor) -> int:
    """Return the number of values (or rows). Raises Degenerate for fewer than two, or if all of them are equal."""
    n = len(x_N)
    require_units(n, 2)
    if bool((x_N == x_N[0]).all()):
        raise Degenerate("zero_variance", f"all {n} of them are equal", n)
    return n


def require_units(n: int, least: int) -> None:
    """Raise Degenerate if there are fewer than ``least`` units."""
    if n < least:
        raise Degenerate("too_few_units", f"{n} unit(s), and {least} are needed", n)


def _check_finite(terms: Terms, names: frozenset[str]) -> None:
    for name in sorted(names):
        value = terms[name]
        if name == "K_UU":
            # nobody reads the diagonal, so it may hold anything
            value = value[~torch.eye(len(value), dtype=torch.bool)]
        if not bool(value.isfinite().all()):
            raise Degenerate("non_finite", f"{int((~value.isfinite()).sum())} of terms.{name} are NaN or infinite")
