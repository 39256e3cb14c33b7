"""These estimators give the variance of the U-statistic of a single batch that is both E and U.

U = mean over pairs of different units u, v of X_u . Y_v = mean of r_u, r_u = (X_u . Y-bar without u + Y_u . X-bar
without u) / 2, and deltaH1 = eta U. It leaves out X_u . Y_u, which would bias it.
"""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from attrs.validators import and_, ge, le
from torch import Tensor

from .base import TOTAL_ONE_BATCH, Estimator, Result, jackknife_variance, require_units, require_variance
from .terms import Terms


def projections(K_UU: Tensor) -> Tensor:
    """Compute the projections r_u, [U], from inner products X_u . Y_v, [U, U], whose diagonal is not read."""
    # subtracted first, so that equal products give exactly equal projections
    first = K_UU[0, -1]
    off_diagonal_UU = (K_UU - first).fill_diagonal_(0.0)
    return first + (off_diagonal_UU.sum(0) + off_diagonal_UU.sum(1)) / (2 * (len(K_UU) - 1))


class _Plugin(Estimator):
    """The base of the plug-in estimators: SE = sqrt(4 zeta1 / U), zeta1 = variance of r."""

    __slots__ = ()
    needs: ClassVar[frozenset[str]] = frozenset({"eta", "r_U"})
    estimand: ClassVar[str] = TOTAL_ONE_BATCH
    units: ClassVar[str] = "prompts"

    def measure(self, terms: Terms) -> Result:
        return self.of(terms["r_U"], float(terms["eta"]))

    def of(self, r_U: Tensor, eta: float) -> Result:
        """Compute the result from projections."""
        n, zeta1 = require_variance(r_U), float(r_U.var())
        return Result(eta * float(r_U.mean()), eta**2 * 4 * zeta1 / n, n, {"zeta1": zeta1})


class _Jackknife(_Plugin):
    """The base of the jackknife: its variance is that of the U-statistics without one unit each."""

    __slots__ = ()

    def of(self, r_U: Tensor, eta: float) -> Result:
        n = len(r_U)
        require_units(n, 3)
        require_variance(r_U)
        var = jackknife_variance((n * r_U.mean() - 2 * r_U) / (n - 2))
        return Result(eta * float(r_U.mean()), eta**2 * var, n, {"zeta1": n / 4 * var})


@attrs.frozen
class _Blocks(Estimator):
    """The base of the estimators whose units are blocks of prompts."""

    needs: ClassVar[frozenset[str]] = frozenset({"eta", "K_UU"})
    estimand: ClassVar[str] = f"{TOTAL_ONE_BATCH}, of pairs from different blocks"
    units: ClassVar[str] = "blocks of prompts"

    blocks: int = attrs.field(default=8, validator=and_(ge(2), le(10**6)))
    """Number of blocks of consecutive prompts; their sizes differ by at most one."""

    def block_projections(self, terms: Terms) -> Tensor:
        """Compute the projections of the block means: [blocks]."""
        K_UU = terms["K_UU"]
        require_units(len(K_UU), self.blocks)
        parts = torch.arange(len(K_UU)).tensor_split(self.blocks)
        first = K_UU[0, -1]
        rows_K_U = torch.stack([(K_UU[part] - first).mean(0) for part in parts])
        means_K_K = torch.stack([rows_K_U[:, part].mean(1) for part in parts], 1)
        return first + projections(means_K_K)


@attrs.frozen
class UstatPlugin(_Plugin):
    """Estimate the variance of the one-batch U-statistic by plugging in the variance of its projections.

    zeta1 = sum (r_u - U)^2 / (U - 1), var = eta^2 * 4 zeta1 / U. extra: ``zeta1``, without eta. It is a little too
    large in small batches. Source: Hoeffding 1948; ``legacy_ustat_plugin`` is what was once coded.
    """


@attrs.frozen
class UstatJackknife(_Jackknife):
    """Estimate the variance of the one-batch U-statistic by leaving out one prompt at a time.

    U_-u = (U * value - 2 r_u) / (U - 2), var = eta^2 (U - 1) / U * sum (U_-u - mean)^2; extra: ``zeta1`` = U var / 4,
    without eta. Needs three prompts. Source: Arvesen 1969.
    """


@attrs.frozen
class UstatBlockPlugin(_Blocks):
    """Compute ``ustat_plugin`` with blocks of prompts as units, for the U-statistic of block means.

    The units are few: with 8 blocks the standard error itself is only known to about 27 %. extra: ``zeta1``, without
    eta.
    """

    def measure(self, terms: Terms) -> Result:
        return UstatPlugin().of(self.block_projections(terms), float(terms["eta"]))


@attrs.frozen
class UstatBlockJackknife(_Blocks):
    """Compute ``ustat_jackknife`` with blocks as units, for the U-statistic of block means; it needs three blocks."""

    def measure(self, terms: Terms) -> Result:
        return UstatJackknife().of(self.block_projections(terms), float(terms["eta"]))
