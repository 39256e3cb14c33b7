"""``top_p`` keeps the best groups that together carry a share of the score mass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs
import torch
from torch import Tensor

from ..core.components import RolloutFilter
from .ranking import SLACK, is_order, rank, share


@attrs.frozen
class TopP(RolloutFilter):
    """Keep the best groups that together carry a share ``value`` of the score mass.

    Groups are taken from the largest score down (``type=smallest``: from the smallest up), equal scores in their
    original order. ``value=1`` keeps every group, or with ``include_zero=False`` every group whose score is not zero.
    Below 1:

    ``prob_mode=linear``: the mass is the score itself. With ``T = value * sum(scores) - eps`` groups are taken until
    their sum reaches T. Only positive scores are taken; if they do not reach T, or T is not positive (all scores zero,
    or ``value * sum <= eps``), *no* group is kept. So ``smallest`` needs ``include_zero=False`` where a score is zero,
    and negative scores (metric ``reward``) shift T.

    ``prob_mode=softmax``: the mass is ``softmax(scores)`` (``smallest``: ``softmax(-scores)``); the shortest beginning
    with at least ``value`` of it (less 1e-6) is kept, so at least one group is. Adding a number to all scores changes
    nothing, but their unit matters: the deviations of 0/1 rewards lie so close together that ``value=0.9`` keeps nearly
    all groups.

    Scores [P] -> bool [P]. Source: RAGEN-2 (its scripts run softmax, its paper describes the linear rule on variances).
    """

    in_comparison: ClassVar[Mapping[str, Any]] = {"value": 0.9}

    value: float = attrs.field(validator=share(hint=" (a number of groups is top_k)"))
    """Share of the mass, in (0, 1]."""
    type: Literal["largest", "smallest"] = attrs.field(default="largest", validator=is_order)
    """Whether large or small scores are kept."""
    include_zero: bool = True
    """Whether groups with a score of zero take part."""
    prob_mode: Literal["linear", "softmax"] = attrs.field(
        default="linear", validator=attrs.validators.in_(("linear", "softmax"))
    )
    """Whether the mass of a group is its score or the softmax of the scores."""
    eps: float = attrs.field(default=0.01, validator=[attrs.validators.ge(0), attrs.validators.lt(math.inf)])
    """Amount taken off the linear mass that must be reached, in units of the score (RAGEN's ``selection_eps``)."""

    @property
    def keeps_all(self) -> bool:
        """Whether every group is kept whatever the scores, so that nobody needs to compute them."""
        return self.value == 1 and self.include_zero

    def select(self, scores_P: Tensor) -> Tensor:
        """Say which groups are kept: scores [P] -> bool [P]. Raises RunError on scores that are not finite."""
        ranking = rank(scores_P, self.type, self.include_zero)
        if self.value == 1:
            return ranking.first(len(ranking.scores_n))
        rule = self._linear if self.prob_mode == "linear" else self._softmax
        return ranking.first(rule(ranking.scores_n))

    def _linear(self, scores_n: Tensor) -> int:
        """Count the groups whose scores together reach the target; 0 where they do not."""
        target = self.value * float(scores_n.sum()) - self.eps
        # mass_k is that of the first k groups, from k = 0: a group is taken as long as those before it have not
        # reached the target.
        mass_k = torch.cat([scores_n.new_zeros(1), scores_n.cumsum(0)])
        taken_n = (mass_k[:-1] < target) & (scores_n > 0)
        count = int(taken_n.cumprod(0).sum())
        return count if mass_k[count] >= target else 0

    def _softmax(self, scores_n: Tensor) -> int:
        """Count the groups of the shortest beginning whose softmax mass reaches ``value``."""
        signed_n = scores_n if self.type == "largest" else -scores_n
        return int((torch.softmax(signed_n, 0).cumsum(0) < self.value - SLACK).sum()) + 1
