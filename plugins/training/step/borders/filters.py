"""Wrappers that check rollout filters, episode filters and group metrics."""

from __future__ import annotations

import torch
from torch import Tensor

from .....core.components import EpisodeFilter, GroupMetric, RolloutFilter, Rollouts
from .checks import Checked, calling, require_finite, require_tensor, tensors


class CheckedFilter(Checked, RolloutFilter):
    """A rollout filter that is checked."""

    @property
    def keeps_all(self) -> bool:
        return self.component.keeps_all

    def select(self, scores_P: Tensor) -> Tensor:
        with calling(self.named, "select", scores=scores_P):
            keep_P = self.component.select(scores_P)
        require_tensor(self.named, "select", keep_P, scores_P.shape, "[P]", torch.bool)
        return keep_P


class CheckedEpisodeFilter(Checked, EpisodeFilter):
    """An episode filter that is checked."""

    @property
    def keeps_all(self) -> bool:
        return self.component.keeps_all

    def select(self, rollouts: Rollouts) -> Tensor:
        with calling(self.named, "select", **tensors(rollouts)):
            keep_E = self.component.select(rollouts)
        require_tensor(self.named, "select", keep_E, rollouts.raw_rewards_E.shape, "[E]", torch.bool)
        return keep_E


class CheckedMetric(Checked, GroupMetric):
    """A group metric that is checked."""

    def score(self, rollouts: Rollouts) -> Tensor:
        with calling(self.named, "score", **tensors(rollouts)):
            scores_P = self.component.score(rollouts)
        require_tensor(self.named, "score", scores_P, rollouts.group_ids_P.shape, "[P]")
        require_finite(self.named, "score", scores_P)
        return scores_P
