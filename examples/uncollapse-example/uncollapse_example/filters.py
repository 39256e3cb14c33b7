"""The filter ``median_up`` keeps the better half of the groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from uncollapse.core.components import RolloutFilter
from uncollapse.core.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen
class MedianUp(RolloutFilter):
    """Keep the groups whose score is at or above the median.

    Between two middle scores the median is their mean, so an even number of distinct scores loses exactly half. Equal
    scores are all at the median and all stay. Scores [P] -> bool [P].
    """

    include_zero: bool = attrs.field(default=True, validator=attrs.validators.instance_of(bool))
    """Whether groups with a score of zero can be kept; without them the median is that of the others."""

    def select(self, scores_P: Tensor) -> Tensor:
        if not bool(scores_P.isfinite().all()):
            raise RunError("the score of a group is NaN or infinite", "median_up", "see which group metric produced it")
        candidates_P = (scores_P != 0) | self.include_zero
        if not bool(candidates_P.any()):
            return candidates_P
        return candidates_P & (scores_P >= scores_P[candidates_P].quantile(0.5))
