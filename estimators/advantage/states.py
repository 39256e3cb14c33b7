"""Turns that start from the same observation are compared with each other, beside the comparison of whole episodes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import and_, ge, instance_of, lt
from torch import Tensor

from ...core.components import AdvantageEstimator, Advantages, CreditInputs
from ..groups import group_index, group_mean, group_std
from .gae import FRACTION
from .outcome import Grpo
from .sampled_tokens import SampledTokens, discounted_sums, required

NUMBER = and_(ge(0.0), lt(math.inf))


@attrs.frozen
class GiGpo(AdvantageEstimator):
    """The advantage of ``grpo`` plus that of the turn among the turns of the group that began in the same state.

    A = A_episode + weight * A_turn on every sampled token. A_episode is that of ``grpo(scale, eps)``, and A_turn is
    (R - mean) / (std + eps), with R = r + gamma * R of the next turn and r the rewards on the turn's sampled tokens.
    Mean and std (ddof 1) are those of the turns of the same group, of whatever episode and number, whose observation
    had the very same text. A turn whose state no other turn has, and one whose equals all have the same R, gets 0 for
    A_turn. returns: undiscounted rewards to go, in reward units. [B, T], zero off the mask.

    With ``reward.placement: episode`` only the last turn is rewarded, so that R falls by gamma with each turn before
    it; ``turn`` leaves rewards where they were earned. Turns are followed within a row, so ``rollout.context_window``
    must be ``full``.

    Source: Feng et al. 2025 (arXiv 2505.10978), with gamma 0.95 and weight 1; ``scale=false`` is its other
    normalisation, without a std. States that are similar, but not equal, are not compared.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"groups", "turns"})

    gamma: float = attrs.field(default=0.95, validator=FRACTION)
    """Discount per turn, 0 to 1."""
    weight: float = attrs.field(default=1.0, validator=NUMBER)
    """Weight of the turn's advantage."""
    scale: bool = attrs.field(default=True, validator=instance_of(bool))
    """Whether both advantages are divided by a std."""
    eps: float = attrs.field(default=1e-6, validator=NUMBER)
    """Number added to each std, in reward units."""

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield why it cannot work: rows that are single turns do not say what followed."""
        if (window := experiment.rollout.context_window) != "full":
            yield f"follows the turns of an episode within a row, and rollout.context_window is {window}"

    def compute(self, batch: CreditInputs) -> Advantages:
        tokens = SampledTokens.of(batch.mask)
        of_episodes = Grpo(scale=self.scale, eps=self.eps).compute(batch)
        turns_N = tokens.take(required(batch.turns, "turns", "gigpo"))
        states_N = tokens.take(required(batch.states, "states", "gigpo"))
        groups_N = tokens.per_token(batch.groups)
        lengths_R, turns_per_row = tokens.turns_R(turns_N)
        starts_R = lengths_R.cumsum(0) - lengths_R
        # of the runs that are turns, the sum from the first token on is that of the whole turn
        rewards_R = discounted_sums(tokens.take(batch.rewards), lengths_R, 1.0)[starts_R]
        returns_R = discounted_sums(rewards_R, turns_per_row, self.gamma)
        turn_R = self._among_equals(returns_R, torch.stack([groups_N[starts_R], states_N[starts_R]]))
        of_turns = tokens.place(self.weight * turn_R.repeat_interleave(lengths_R), like=batch.rewards)
        return attrs.evolve(of_episodes, advantages=of_episodes.advantages + of_turns)

    def _among_equals(self, returns_R: Tensor, keys_2_R: Tensor) -> Tensor:
        """Compare the turns whose group and state are the same: [R]."""
        _, place_R = torch.unique(keys_2_R, dim=1, return_inverse=True)
        ids, place_R = group_index(place_R)
        above_R = returns_R - group_mean(returns_R, place_R, len(ids))[place_R]
        if not self.scale:
            return above_R
        std_R = group_std(returns_R, place_R, len(ids))[place_R]
        return above_R / torch.where(std_R > 0, std_R + self.eps, 1.0)
