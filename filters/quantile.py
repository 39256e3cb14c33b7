"""``quantile`` keeps a band of the ranking: the groups of a quarter, for example."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import attrs
from attrs import validators
from torch import Tensor

from ..core.components import RolloutFilter
from .ranking import is_order, rank


@attrs.frozen
class Quantile(RolloutFilter):
    """Keep the groups whose rank lies between two shares of the ranking.

    The n groups that take part are ranked from the largest score down (``type=smallest``: from the smallest up), equal
    scores in their original order; those with the ranks (from 0) ``floor(low * n)`` to ``floor(high * n) - 1`` are
    kept. So bands that meet share no group and leave none out: the quarters are ``quantile(0, 0.25)``,
    ``quantile(0.25, 0.5)``, ``quantile(0.5, 0.75)`` and ``quantile(0.75, 1)``. A band that is narrower than 1 / n may
    keep nothing.

    Scores [P] -> bool [P]. Source: the quartiles of reward variance in RAGEN-2 (arXiv 2604.06268, table 6).
    """

    low: float = attrs.field(default=0.0, validator=validators.ge(0))
    """Share of the ranking where the band begins, in [0, 1)."""
    high: float = attrs.field(default=0.25, validator=validators.le(1))
    """Share of the ranking where the band ends, in (0, 1]."""
    type: Literal["largest", "smallest"] = attrs.field(default="largest", validator=is_order)
    """Whether the ranking begins with large or with small scores."""
    include_zero: bool = True
    """Whether groups with a score of zero take part."""

    def __attrs_post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"high must be more than low, {self.low}, got {self.high}")

    @property
    def keeps_all(self) -> bool:
        """Whether every group is kept whatever the scores, so that nobody needs to compute them."""
        return self.low == 0 and self.high == 1 and self.include_zero

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield why it cannot work: the band must hold a rank of a step's groups."""
        groups = experiment.rollout.groups
        # without groups whose score is 0, there may be fewer in the ranking
        counts = [groups] if self.include_zero else range(1, groups + 1)
        if all(len(self._ranks(count)) == 0 for count in counts):
            yield (
                f"keeps no group, as no rank of rollout.groups = {groups} lies between the shares {self.low} and "
                f"{self.high}: widen the band to 1 / {groups}, or set more groups"
            )

    def select(self, scores_P: Tensor) -> Tensor:
        """Say which groups are kept: scores [P] -> bool [P]. Raises RunError on scores that are not finite."""
        ranking = rank(scores_P, self.type, self.include_zero)
        ranks = self._ranks(len(ranking.scores_n))
        return ranking.first(ranks.stop) & ~ranking.first(ranks.start)

    def _ranks(self, count: int) -> range:
        """Return the ranks that are kept of ``count`` groups."""
        # without the slack 0.29 * 100 would round down to 28.
        return range(*(math.floor(share * count + 1e-9) for share in (self.low, self.high)))
