"""The order in which filters take groups: every built-in filter keeps a beginning of this order."""

from __future__ import annotations

from typing import Any, Literal, get_args

import attrs
import torch
from torch import Tensor

from ..core.errors import RunError

ZERO = 1e-10
"""Largest size of a score that counts as zero."""

SLACK = 1e-6
"""Relative slack of comparisons with a threshold, so that rounding of the scores does not decide on a boundary."""

Order = Literal["largest", "smallest"]
is_order = attrs.validators.in_(get_args(Order))


def share(*, zero: bool = False, hint: str = "") -> Any:
    """Make a validator that wants a value in (0, 1], or in [0, 1] where ``zero`` is allowed."""

    def check(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
        if not (0 <= value <= 1 if zero else 0 < value <= 1):
            raise ValueError(f"{attribute.name} must lie in {'[' if zero else '('}0, 1]{hint}, got {value}")

    return check


@attrs.frozen(eq=False)
class Ranking:
    """A ranking lists the ``n`` groups that may be taken, best first; equal scores keep their original order."""

    scores_n: Tensor
    """[n] float64 scores in the order of the ranking, on the CPU."""
    places_n: Tensor
    """[n] int64 original place of each ranked group, among the P that were given."""
    device: torch.device
    """Device that the scores came from and that the selection goes to."""
    P: int
    """Number of groups that were given, those that may not be taken included."""

    def first(self, count: int) -> Tensor:
        """Mark the first ``count`` groups of the ranking, or all where there are fewer: [P] bool, original order."""
        keep_P = torch.zeros(self.P, dtype=torch.bool)
        keep_P[self.places_n[:count]] = True
        return keep_P.to(self.device)


def rank(scores_P: Tensor, order: Order, include_zero: bool) -> Ranking:
    """Rank groups by their scores [P], the ones named by ``order`` first.

    Ranking is done in float64 on the CPU, whatever the dtype and the device of the scores, so that the same scores give
    the same selection everywhere. ``include_zero=False`` leaves out groups
    with a score of at most 1e-10 in size.

    Raises:
        RunError: a score is NaN or infinite.
    """
    cpu_P = scores_P.detach().cpu().double()
    if not bool(cpu_P.isfinite().all()):
        raise RunError(
            "the group metric gave a score that is NaN or infinite",
            f"scores_P at {(~cpu_P.isfinite()).nonzero().flatten().tolist()}",
            "a group metric must give a finite score to every group, also to a group of one episode",
        )
    places_P = torch.arange(len(cpu_P)) if include_zero else (cpu_P.abs() > ZERO).nonzero().flatten()
    scores_n, order_n = cpu_P[places_P].sort(descending=order == "largest", stable=True)
    return Ranking(scores_n, places_P[order_n], scores_P.device, len(cpu_P))
