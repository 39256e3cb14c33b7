"""``min_p`` keeps the groups whose score comes near the best one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs
from torch import Tensor

from ..core.components import RolloutFilter
from .ranking import SLACK, is_order, rank, share


@attrs.frozen
class MinP(RolloutFilter):
    """Keep the groups whose score is at least ``value`` times the largest score.

    ``type=smallest`` keeps scores of at most ``min(scores) / value``. Comparisons have a relative slack of 1e-6. If all
    scores are zero, all groups are kept. The filter is meant for scores that are not negative: if the largest score is
    below zero, the threshold lies above it, and nothing is kept.

    Scores [P] -> bool [P]. Source: RAGEN-2, after min-p token sampling (Nguyen et al. 2024).
    """

    in_comparison: ClassVar[Mapping[str, Any]] = {"value": 0.2}

    value: float = attrs.field(validator=share(zero=True))
    """Share of the best score, in [0, 1]."""
    type: Literal["largest", "smallest"] = attrs.field(default="largest", validator=is_order)
    """Whether large or small scores are kept."""
    include_zero: bool = True
    """Whether groups with a score of zero take part; without them the smallest score is the smallest other one."""

    def select(self, scores_P: Tensor) -> Tensor:
        """Say which groups are kept: scores [P] -> bool [P]. Raises RunError on scores that are not finite."""
        ranking = rank(scores_P, self.type, self.include_zero)
        scores_n, best_n = ranking.scores_n, ranking.scores_n[:1]
        slack_n = SLACK * best_n.abs()
        if self.type == "largest":
            kept_n = scores_n >= self.value * best_n - slack_n
        else:
            kept_n = self.value * scores_n <= best_n + slack_n
        return ranking.first(int(kept_n.sum()))
