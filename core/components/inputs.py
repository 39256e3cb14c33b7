"""What the training loop hands to estimators and losses: one object for each contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import attrs

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen(eq=False)
class ShapingInputs:
    """What a reward shaping is given: all episodes of a training step, whatever filters leave of them; on the CPU."""

    rewards_E: Tensor
    """[E] float32 reward units: as they were earned, format penalties included."""
    groups_E: Tensor
    """[E] int64: the episode's group id."""
    lengths_E: Tensor
    """[E] int64: sampled tokens of the episode, over all of its turns."""
    turns_E: Tensor
    """[E] int64: turns of the episode."""
    success_E: Tensor
    """[E] bool: whether the episode succeeded."""
    truncated_E: Tensor
    """[E] bool: whether a limit of turns, actions or tokens ended the episode."""
    max_tokens: int
    """Sampled tokens of one turn at most (``rollout.max_tokens``)."""
    step: int = 0
    """The training step, from 0."""
    steps: int = 1
    """Training steps of the run."""


@attrs.frozen(eq=False)
class CreditInputs:
    """What an advantage estimator is given: the whole batch of a step, before it is cut up; on the CPU.

    A field is ``None`` where the estimator does not declare that it ``needs`` it, rewards, mask, groups, turns, states,
    episodes and ``success_E`` apart.
    """

    rewards: Tensor
    """[B, T] reward units: on sampled tokens, after reward shaping, normalisation and KL in the reward."""
    mask: Tensor
    """[B, T] bool: tokens that the policy sampled."""
    groups: Tensor
    """[B] int64: the row's group id."""
    values: Tensor | None = None
    """[B, T] reward units: the critic's values (need ``values``)."""
    turns: Tensor | None = None
    """[B, T] int64: the turn of each sampled token, -1 off the mask."""
    states: Tensor | None = None
    """[B, T] int64: the observation before the token's turn, equal where its text is; -1 off the mask."""
    episodes: Tensor | None = None
    """[B] int64: the row's episode."""
    greedy_rewards: Tensor | None = None
    """[B] reward units: of a greedy episode of the row's group (need ``greedy_rewards``)."""
    logprobs: Tensor | None = None
    """[B, T] nats: of the sampling policy, by the trainer (need ``logprobs``)."""
    entropies: Tensor | None = None
    """[B, T] nats: of the sampling policy (need ``entropies``)."""
    second_moments: Tensor | None = None
    """[B, T] nats squared: sum_v p_v (log p_v)^2 of the sampling policy (need ``second_moments``)."""
    collision_probs: Tensor | None = None
    """[B, T] 0 to 1: sum_v p_v^2 of the sampling policy (need ``collision_probs``)."""
    success_E: Tensor | None = None
    """[E] bool: whether the episode succeeded."""
    step: int = 0
    """The training step, from 0."""
    steps: int = 1
    """Training steps of the run."""


@attrs.frozen(eq=False)
class LossInputs:
    """What a policy loss is given: one micro-batch, or in ``prepare`` all rows of an optimizer step.

    How rows are split into micro-batches and ranks must change nothing: what couples rows belongs in ``prepare``.
    """

    logprobs: Tensor
    """[B, T] nats: of the policy that trains, differentiable. In ``prepare`` without gradient."""
    old_logprobs: Tensor
    """[B, T] nats: of the policy that sampled, by the trainer."""
    advantages: Tensor
    """[B, T]."""
    mask: Tensor
    """[B, T] bool: tokens that train."""
    entropies: Tensor | None = None
    """[B, T] nats: of the policy that trains; in ``prepare`` without gradient."""
    sampler_logprobs: Tensor | None = None
    """[B, T] nats: of the same tokens as the rollout engine reported them."""
    ref_logprobs: Tensor | None = None
    """[B, T] nats: of the reference policy, where there is one."""
    groups: Tensor | None = None
    """[B] int64: the row's group id."""
    turns: Tensor | None = None
    """[B, T] int64: the turn of each sampled token, -1 off the mask."""
    rows: Tensor | None = None
    """[B] int64: where each row stands in the batch of the training step."""
    prepared: Mapping[str, Tensor] = attrs.field(factory=dict)
    """What ``prepare`` returned, of these rows."""
    step: int = 0
    """The training step, from 0."""


class LossOutput(NamedTuple):
    """What a policy loss returns."""

    loss_B_T: Tensor
    """[B, T]: the loss of each token, zero off the mask."""
    metrics: Mapping[str, tuple[Tensor, Tensor]]
    """Name -> (sum, count) over tokens; they add up over micro-batches and ranks."""
