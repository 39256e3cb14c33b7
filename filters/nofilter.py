"""``nofilter`` keeps every group."""

from __future__ import annotations

from typing import Literal

import attrs
from torch import Tensor

from ..core.components import RolloutFilter
from .ranking import is_order, rank


@attrs.frozen
class NoFilter(RolloutFilter):
    """Keep every group.

    This is the same as ``top_p(1.0)``. ``include_zero=false``, in either of them, drops the groups whose score is zero
    and no others.

    Scores [P] -> bool [P].
    """

    type: Literal["largest", "smallest"] = attrs.field(default="largest", validator=is_order)
    """Parameter without effect; every filter has it, so that a sweep over filters can set it."""
    include_zero: bool = True
    """Whether groups with a score of zero are kept as well."""

    @property
    def keeps_all(self) -> bool:
        """Whether every group is kept whatever the scores, so that nobody needs to compute them."""
        return self.include_zero

    def select(self, scores_P: Tensor) -> Tensor:
        """Say which groups are kept: scores [P] -> bool [P]. Raises RunError on scores that are not finite."""
        return rank(scores_P, self.type, self.include_zero).first(len(scores_P))
