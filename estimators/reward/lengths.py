"""Reward shaping by length: what long answers cost."""

from __future__ import annotations

import math

import attrs
import torch
from attrs import validators
from torch import Tensor

from ...core.components import RewardShaping, ShapingInputs
from ...core.compose.experiment import Experiment


@attrs.frozen
class Overlong(RewardShaping):
    """Take a growing amount off the reward of an episode that comes near the limit of tokens.

    With L sampled tokens of the episode, the limit ``Lmax`` and the buffer ``Lbuf`` before it (all in tokens):
    ``reward - penalty * clip((L - (Lmax - Lbuf)) / Lbuf, 0, 1)``. So nothing is taken off up to ``Lmax - Lbuf``, and
    all of ``penalty`` from ``Lmax`` on.

    Source: the soft overlong punishment of DAPO (arXiv 2503.14476, equation 13), where ``Lmax`` is 20,480, ``Lbuf``
    4,096 and the penalty 1. There an episode has one turn; here the limit of an episode of n turns is n times
    ``rollout.max_tokens``, unless ``limit`` is given.
    """

    buffer: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(1)))
    """Tokens before the limit over which the penalty grows; ``null`` is a fifth of the limit, DAPO's share."""
    penalty: float = attrs.field(default=1.0, validator=[validators.gt(0), validators.lt(math.inf)])
    """Amount that is taken off at the limit, in reward units."""
    limit: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(1)))
    """Tokens of an episode; ``null`` is ``rollout.max_tokens`` for each of its turns."""

    def __attrs_post_init__(self) -> None:
        if self.buffer is not None and self.limit is not None and self.buffer > self.limit:
            raise ValueError(f"buffer must be at most the limit, {self.limit} tokens, got {self.buffer}")

    def shape(self, inputs: ShapingInputs) -> Tensor:
        limits_E = inputs.max_tokens * inputs.turns_E.clamp(min=1) if self.limit is None else torch.tensor(self.limit)
        buffers_E = limits_E / 5 if self.buffer is None else torch.tensor(self.buffer)
        beyond_E = (inputs.lengths_E - (limits_E - buffers_E)) / buffers_E
        return inputs.rewards_E - self.penalty * beyond_E.clamp(0, 1)

    def check(self, experiment: Experiment) -> list[str]:
        """Say why the experiment cannot use this shaping."""
        tokens, most = experiment.rollout.max_tokens, _most_tokens(experiment)
        if self.limit is None:
            if self.buffer is not None and self.buffer > tokens:
                return [f"its buffer of {self.buffer} tokens is more than rollout.max_tokens, {tokens}"]
            return []
        free = self.limit - (self.limit / 5 if self.buffer is None else self.buffer)
        if free >= most:
            return [
                f"takes nothing off up to {free:g} tokens (limit - buffer), and no episode has more than {most}: set "
                f"limit to at most {most} tokens"
            ]
        return []


@attrs.frozen
class Length(RewardShaping):
    """Let each sampled token of an episode cost the same: ``reward - cost * max(L - free, 0)``.

    L are the sampled tokens of the episode over all of its turns, ``cost`` is in reward units per token.

    Source: the length term of L1 (arXiv 2503.04697, equation 1), whose coefficient 0.0003 is the default; there the
    distance to a wanted length counts, in both directions, and here only what is above ``free``.
    """

    cost: float = attrs.field(default=0.0003, validator=[validators.gt(0), validators.lt(math.inf)])
    """Reward units that a token costs."""
    free: int = attrs.field(default=0, validator=validators.ge(0))
    """Tokens that cost nothing."""

    def shape(self, inputs: ShapingInputs) -> Tensor:
        return inputs.rewards_E - self.cost * (inputs.lengths_E - self.free).clamp(min=0)

    def check(self, experiment: Experiment) -> list[str]:
        """Say why the experiment cannot use this shaping."""
        if self.free >= (most := _most_tokens(experiment)):
            return [f"lets {self.free} tokens be free, and no episode has more than {most}: set free below that"]
        return []


def _most_tokens(experiment: Experiment) -> int:
    """Return the largest number of tokens that can be sampled in an episode."""
    rollout = experiment.rollout
    each_turn = min(rollout.max_tokens, rollout.max_context) * rollout.max_turns
    return min(each_turn, rollout.max_context) if rollout.context_window == "full" else each_turn
