"""The laws of advantage estimators."""

from __future__ import annotations

import torch

from ...core.components import Advantages
from ...core.compose.named import Named
from ...plugins.training.step.borders import CheckedAdvantage
from .. import samples
from ..problems import laws, require


def _gives_credit(named: Named) -> None:
    """An estimator gives every token a finite advantage and return, which are zero off the mask."""
    result = _computed(named)
    expected = samples.rollouts().rewards.dtype
    for name in ("advantages", "returns"):
        dtype = getattr(result, name).dtype
        require(named, f"compute ({name})", dtype == expected, f"gave {dtype} for rewards of {expected}")


def _follows_the_rows(named: Named) -> None:
    """An estimator gives a row the same credit wherever in the batch it stands."""
    order = torch.tensor([6, 0, 3, 5, 1, 7, 2, 4])
    batch = samples.credit(named.needs)
    moved = CheckedAdvantage(named).compute(samples.rows_of(batch, order))
    same = torch.allclose(moved.advantages, _computed(named).advantages[order], atol=1e-5)
    require(named, "compute", same, "gave other advantages when the same rows came in another order")


def _minds_no_padding(named: Named) -> None:
    """An estimator gives the same credit however far the batch is padded."""
    batch = samples.credit(named.needs)
    wide = CheckedAdvantage(named).compute(samples.padded(batch))
    same = torch.allclose(wide.advantages[:, : samples.TOKENS], _computed(named).advantages, atol=1e-5)
    require(named, "compute", same, "gave other advantages when the batch was padded further")


def _computed(named: Named) -> Advantages:
    return CheckedAdvantage(named).compute(samples.credit(named.needs))


LAWS = {"advantage": laws(_gives_credit, _follows_the_rows, _minds_no_padding)}
