"""These estimators give the variance of a product of two independent means, deltaH1 = eta * X-bar . Y-bar.

With N prompts in E and M in U, Var(X-bar . Y-bar) = mu_Y' S_X mu_Y / N + mu_X' S_Y mu_X / M + tr(S_X S_Y) / (N M), and
given U it is Y-bar' S_X Y-bar / N. They read inner products only, so no gradient is stored: s_N and t_M take one pass
each.
"""

from __future__ import annotations

from typing import ClassVar

import attrs
from attrs.validators import and_, ge, lt
from torch import Tensor

from .base import (
    CONDITIONAL_E,
    CONDITIONAL_U,
    TOTAL,
    Degenerate,
    Estimator,
    Result,
    jackknife_variance,
    require_units,
    require_variance,
    variance_of_mean,
)
from .terms import Terms


@attrs.frozen
class ConditionalE(Estimator):
    """Estimate the variance of deltaH1 over draws of E, given the update.

    var = eta^2 / (N (N - 1)) * sum over n of (s_n - mean s)^2, s_n = X_n . Y-bar; value = eta * mean s, which must be
    deltaH1 to rounding. Two passes: the difference of squares cancels where the mean is large. The key of older
    results is ``SE_conditional``. Exact for linear deltaH1 (per sequence); for a ratio use ``deriv_delta``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"eta", "s_N"})
    estimand: ClassVar[str] = CONDITIONAL_E
    units: ClassVar[str] = "prompts of E"

    def measure(self, terms: Terms) -> Result:
        return _scaled(terms, "s_N")


@attrs.frozen
class ConditionalU(Estimator):
    """Estimate the variance of deltaH1 over draws of U, given E.

    var = eta^2 / (M (M - 1)) * sum over p of (t_p - mean t)^2, t_p = X-bar . Y_p; value = eta * mean t. It takes Y-bar
    to be a mean of independent Y_p, so it is for the preconditioned gradient; AdamW also divides by what U changes.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"eta", "t_M"})
    estimand: ClassVar[str] = CONDITIONAL_U
    units: ClassVar[str] = "prompts of U"

    def measure(self, terms: Terms) -> Result:
        return _scaled(terms, "t_M")


@attrs.frozen
class RowJackknife(Estimator):
    """Estimate the variance of deltaH1 by leaving out one prompt of E at a time, given the update.

    T_-n = (N T - s_n) / (N - 1); var = eta^2 (N - 1) / N * sum over n of (T_-n - mean)^2. It is the same number as
    ``conditional_E``, by another route; for a ratio, where it is not, see ``deriv_jackknife``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"eta", "s_N"})
    estimand: ClassVar[str] = CONDITIONAL_E
    units: ClassVar[str] = "prompts of E"

    def measure(self, terms: Terms) -> Result:
        return _jackknifed(terms, "s_N")


@attrs.frozen
class ColumnJackknife(Estimator):
    """Estimate the variance of deltaH1 by leaving out one prompt of U at a time, given E.

    It is ``row_jackknife`` of t_p, and the same number as ``conditional_U``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"eta", "t_M"})
    estimand: ClassVar[str] = CONDITIONAL_U
    units: ClassVar[str] = "prompts of U"

    def measure(self, terms: Terms) -> Result:
        return _jackknifed(terms, "t_M")


class _Total(Estimator):
    """The base of the estimators over both batches."""

    __slots__ = ()
    needs: ClassVar[frozenset[str]] = frozenset({"eta", "s_N", "t_M"})
    estimand: ClassVar[str] = TOTAL
    units: ClassVar[str] = "prompts of E and of U"


@attrs.frozen
class TwoWayJackknife(_Total):
    """Add the row and the column jackknife: the same number as ``vx_vy``, with the same bias upwards."""

    def measure(self, terms: Terms) -> Result:
        eta = float(terms["eta"])
        V_X = jackknife_variance(_left_out(terms["s_N"]))
        V_Y = jackknife_variance(_left_out(terms["t_M"]))
        return Result(eta * float(terms["s_N"].mean()), eta**2 * (V_X + V_Y), _fewer(terms))


@attrs.frozen
class VxVy(_Total):
    """Estimate the variance of deltaH1 over draws of E and U, counting tr(S_X S_Y) / (N M) twice.

    V_X = sum (s_n - mean)^2 / (N (N - 1)), V_Y = sum (t_p - mean)^2 / (M (M - 1)), var = eta^2 (V_X + V_Y). It is too
    large by one trace term on average; ``vx_vy_unbiased`` subtracts it. It is for the preconditioned gradient, as
    ``conditional_U``. extra: ``V_X``, ``V_Y`` without eta. The key of older results is ``SE_deltaH1``.
    """

    def measure(self, terms: Terms) -> Result:
        V_X, V_Y = _components(terms)
        eta = float(terms["eta"])
        return Result(eta * float(terms["s_N"].mean()), eta**2 * (V_X + V_Y), _fewer(terms), {"V_X": V_X, "V_Y": V_Y})


@attrs.frozen
class VxVyUnbiased(_Total):
    """Estimate the variance of deltaH1 over draws of E and U, without bias.

    var = eta^2 (V_X + V_Y - V_XY), V_X and V_Y as in ``vx_vy``, V_XY = sum over n, p of (K_np - row mean - column mean
    + grand mean)^2 / (N (N - 1) M (M - 1)), K_np = X_n . Y_p, whose mean is tr(S_X S_Y) / (N M). Where that comes out
    at 0 or below, by chance in small batches, var is ``floor`` * eta^2 max(V_X, V_Y) and the status ``clipped``. extra:
    ``V_X``, ``V_Y``, ``V_XY``, without eta.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"eta", "s_N", "t_M", "K_NM"})

    floor: float = attrs.field(default=0.01, validator=and_(ge(0), lt(1)))
    """Share of the larger of V_X and V_Y that a variance of 0 or below is clipped to."""

    def measure(self, terms: Terms) -> Result:
        V_X, V_Y = _components(terms)
        K_NM, eta = terms["K_NM"], float(terms["eta"])
        N, M = K_NM.shape
        centred_NM = K_NM - K_NM.mean(1, keepdim=True) - K_NM.mean(0, keepdim=True) + K_NM.mean()
        V_XY = float(centred_NM.square().sum()) / (N * (N - 1) * M * (M - 1))
        value = eta * float(terms["s_N"].mean())
        n = _fewer(terms)
        extra = {"V_X": V_X, "V_Y": V_Y, "V_XY": V_XY}
        if V_X + V_Y - V_XY > 0:
            return Result(value, eta**2 * (V_X + V_Y - V_XY), n, extra)
        clipped = eta**2 * self.floor * max(V_X, V_Y)
        return Result(value, clipped, n, extra, "clipped", "V_X + V_Y - V_XY is not above 0: too few prompts to tell")


@attrs.frozen
class FracVar(_Total):
    """Estimate the relative variance of deltaH1 over draws of E and U: (V_X + V_Y) / (X-bar . Y-bar)^2.

    It is a share without unit, the same for every learning rate; se is |SE / deltaH1|. As a guide, var under 0.1 is
    acceptable and under 0.05 good. value is 1, deltaH1 in units of itself. It is undefined at deltaH1 = 0 and of little
    use near it: it is for reports, not for tests.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"s_N", "t_M"})
    estimand: ClassVar[str] = f"relative {TOTAL}"

    def measure(self, terms: Terms) -> Result:
        V_X, V_Y = _components(terms)
        bars_dot = float(terms["s_N"].mean())
        if bars_dot == 0:
            raise Degenerate("undefined", "deltaH1 is 0", _fewer(terms))
        return Result(1.0, (V_X + V_Y) / bars_dot**2, _fewer(terms))

    def measured_in(self, terms: Terms) -> str:
        return "shares of deltaH1"


def _scaled(terms: Terms, name: str) -> Result:
    """Scale the mean of a term, and its variance, by the learning rate."""
    x_N, eta = terms[name], float(terms["eta"])
    return Result(eta * float(x_N.mean()), eta**2 * variance_of_mean(x_N), len(x_N))


def _jackknifed(terms: Terms, name: str) -> Result:
    """Scale the mean of a term, and the jackknife's variance of it, by the learning rate."""
    x_N, eta = terms[name], float(terms["eta"])
    return Result(eta * float(x_N.mean()), eta**2 * jackknife_variance(_left_out(x_N)), len(x_N))


def _left_out(x_N: Tensor) -> Tensor:
    """Return the mean without each value: [N]. Raises Degenerate as :func:`require_variance`."""
    return (x_N.sum() - x_N) / (require_variance(x_N) - 1)


def _fewer(terms: Terms) -> int:
    return min(len(terms["s_N"]), len(terms["t_M"]))


def _components(terms: Terms) -> tuple[float, float]:
    """Return V_X and V_Y. Raises Degenerate if either of them cannot be estimated."""
    require_units(_fewer(terms), 2)
    return variance_of_mean(terms["s_N"]), variance_of_mean(terms["t_M"])
