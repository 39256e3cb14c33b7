"""``top_k`` keeps a number of groups, ``top_f`` a fraction of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs
from torch import Tensor

from ..core.components import RolloutFilter
from .ranking import is_order, rank, share


def _count(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"{attribute.name} must be a count: 1, 2, ... (a fraction of the groups is top_f), got {value}"
        )


@attrs.frozen
class TopK(RolloutFilter):
    """Keep the ``value`` best groups, where ``value`` is a count and not a fraction (that is ``top_f``).

    Groups are taken from the largest score down (``type=smallest``: from the smallest up), equal scores in their
    original order; all groups are kept where there are fewer than ``value``.

    RAGEN's ``top_k`` was a count at first, then became a fraction, with ``top_k_abs`` for the count. Here ``top_k_abs``
    is another name of ``top_k``, and a fraction is refused.

    Scores [P] -> bool [P]. Source: RAGEN-2.
    """

    in_comparison: ClassVar[Mapping[str, Any]] = {"value": 4}

    # Typed as a number, so that a fraction reaches the check above, which names top_f.
    value: int | float = attrs.field(validator=_count)
    """Number of groups to keep, at least 1."""
    type: Literal["largest", "smallest"] = attrs.field(default="largest", validator=is_order)
    """Whether large or small scores are kept."""
    include_zero: bool = True
    """Whether groups with a score of zero take part."""

    def select(self, scores_P: Tensor) -> Tensor:
        """Say which groups are kept: scores [P] -> bool [P]. Raises RunError on scores that are not finite."""
        return rank(scores_P, self.type, self.include_zero).first(int(self.value))


@attrs.frozen
class TopF(RolloutFilter):
    """Keep the best fraction ``value`` of the groups: ``floor(value * P)`` of them, at least one.

    ``P`` counts all groups, also those that ``include_zero=False`` leaves out. Groups are taken from the largest score
    down (``type=smallest``: from the smallest up), equal scores in their original order; if fewer groups take part than
    that, all of them are kept.

    Scores [P] -> bool [P]. Source: RAGEN, where this rule is called ``top_f`` in one version and ``top_k`` in the next.
    """

    in_comparison: ClassVar[Mapping[str, Any]] = {"value": 0.25}

    value: float = attrs.field(validator=share(hint=" (a number of groups is top_k)"))
    """Fraction of the groups, in (0, 1]."""
    type: Literal["largest", "smallest"] = attrs.field(default="largest", validator=is_order)
    """Whether large or small scores are kept."""
    include_zero: bool = True
    """Whether groups with a score of zero take part."""

    @property
    def keeps_all(self) -> bool:
        """Whether every group is kept whatever the scores, so that nobody needs to compute them."""
        return self.value == 1 and self.include_zero

    def select(self, scores_P: Tensor) -> Tensor:
        """Say which groups are kept: scores [P] -> bool [P]. Raises RunError on scores that are not finite."""
        # without the slack 0.29 * 100 would round down to 28.
        count = max(math.floor(self.value * len(scores_P) + 1e-9), 1)
        return rank(scores_P, self.type, self.include_zero).first(count)
