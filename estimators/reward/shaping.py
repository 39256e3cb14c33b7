"""Reward shaping changes the rewards of episodes before they are normalised."""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
from torch import Tensor

from ...core.components import RewardShaping, ShapingInputs


@attrs.frozen
class NoShaping(RewardShaping):
    """Leave every episode its reward; nothing is computed for it."""

    idle: ClassVar[bool] = True

    def shape(self, inputs: ShapingInputs) -> Tensor:
        return inputs.rewards_E.clone()


@attrs.frozen
class Clip(RewardShaping):
    """Hold the reward of each episode in [``low``, ``high``], in reward units.

    Within a group rewards beyond a bound become equal, and a group of such rewards teaches nothing any more. The
    defaults are those of DQN (Mnih et al. 2015), which clips each reward of a step; here it is the one of the episode.
    """

    low: float = -1.0
    """Smallest reward; ``-.inf`` has no bound."""
    high: float = 1.0
    """Largest reward; ``.inf`` has no bound."""

    def __attrs_post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"high must be more than low, got low {self.low} and high {self.high}")
        if math.isinf(self.low) and math.isinf(self.high):
            raise ValueError("low and high are both infinite: nothing would be clipped (that is the shaping none)")

    def shape(self, inputs: ShapingInputs) -> Tensor:
        return inputs.rewards_E.clamp(self.low, self.high)
