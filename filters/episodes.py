"""Episode filters say which episodes of the kept groups train."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from ..core.components import EpisodeFilter, Rollouts


@attrs.frozen
class AllEpisodes(EpisodeFilter):
    """Keep every episode of the groups that the rollout filter has kept.

    Rollouts of E episodes -> bool [E].
    """

    @property
    def keeps_all(self) -> bool:
        """Whether every episode is kept whatever it is like, so that nobody needs to ask."""
        return True

    def select(self, rollouts: Rollouts) -> Tensor:
        return torch.ones_like(rollouts.raw_rewards_E, dtype=torch.bool)
