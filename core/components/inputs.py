"""The inputs of reward shapings, advantage estimators and policy losses: one object for each contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import attrs

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen(eq=False)
class ShapingInputs:
    """The inputs of a reward shaping: all episodes of a training step, before any filter. Tensors are on the CPU."""

    rewards_E: Tensor
    """[E] float32 reward units: rewards as they were earned, format penalties included."""
    groups_E: Tensor
    """[E] int64: the episode's group id."""
    lengths_E: Tensor
    """[E] int64: the number of tokens that were sampled in the episode, over all of its turns."""
    turns_E: Tensor
    """[E] int64: the number of turns of the episode."""
    success_E: Tensor
    """[E] bool: whether the episode succeeded."""
    truncated_E: Tensor
    """[E] bool: whether a limit of turns, actions or tokens ended the episode."""
    max_tokens: int
    """The largest number of sampled tokens in one turn (``rollout.max_tokens``)."""
    step: int = 0
    """The training step, from 0."""
    steps: int = 1
    """The number of training steps of the run."""


@attrs.frozen(eq=False)
class CreditInputs:
    """The inputs of an advantage estimator: all rows of a step that train. Tensors are on the CPU.

    Rewards, mask, groups, turns, states, episodes and ``success_E`` are always given, and rewards by their names where
    the environment names them. Any other field is ``None`` unless the estimator declares in ``needs`` that it needs it.
    """

    rewards: Tensor
    """[B, T] reward units: rewards on sampled tokens, after shaping, normalisation and the KL in the reward."""
    mask: Tensor
    """[B, T] bool: whether the policy sampled the token."""
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
    """[B] reward units: the reward of a greedy episode of the row's group (need ``greedy_rewards``)."""
    logprobs: Tensor | None = None
    """[B, T] nats: log-probs under the policy that sampled, as the trainer computes them (need ``logprobs``)."""
    entropies: Tensor | None = None
    """[B, T] nats: token entropies of the policy that sampled (need ``entropies``)."""
    second_moments: Tensor | None = None
    """[B, T] nats squared: sum_v p_v (log p_v)^2 under the policy that sampled (need ``second_moments``)."""
    collision_probs: Tensor | None = None
    """[B, T] 0 to 1: sum_v p_v^2 under the policy that sampled (need ``collision_probs``)."""
    success_E: Tensor | None = None
    """[E] bool: whether the episode succeeded."""
    rewards_by_name: Mapping[str, Tensor] = attrs.field(factory=dict)
    """Name -> [E] reward units: the rewards that the environment names, as it gave them, and ``format_penalty`` where
    format penalties may be charged. The need ``rewards_by_name`` says that there must be at least two."""
    reward_weights: Mapping[str, float] = attrs.field(factory=dict)
    """Name -> the weight of each of ``rewards_by_name``."""
    step: int = 0
    """The training step, from 0."""
    steps: int = 1
    """The number of training steps of the run."""


@attrs.frozen(eq=False)
class LossInputs:
    """The inputs of a policy loss: the rows of one micro-batch, or in ``prepare`` all rows of an optimizer step.

    Any split of the rows into micro-batches and ranks must give the same gradient: what depends on several rows belongs
    in ``prepare``.
    """

    logprobs: Tensor
    """[B, T] nats: log-probs under the policy that trains, with a gradient; in ``prepare`` without one."""
    old_logprobs: Tensor
    """[B, T] nats: log-probs under the policy that sampled, as the trainer computes them."""
    advantages: Tensor
    """[B, T]: the credit of each token."""
    mask: Tensor
    """[B, T] bool: whether the token trains."""
    entropies: Tensor | None = None
    """[B, T] nats: token entropies of the policy that trains, with a gradient where the entropy bonus needs one; in
    ``prepare`` without one."""
    sampler_logprobs: Tensor | None = None
    """[B, T] nats: log-probs of the same tokens as the rollout engine reported them."""
    ref_logprobs: Tensor | None = None
    """[B, T] nats: log-probs under the reference, where there is one."""
    groups: Tensor | None = None
    """[B] int64: the row's group id."""
    turns: Tensor | None = None
    """[B, T] int64: the turn of each sampled token, -1 off the mask."""
    rows: Tensor | None = None
    """[B] int64: the row's index among all rows of the training step."""
    prepared: Mapping[str, Tensor] = attrs.field(factory=dict)
    """What ``prepare`` returned, cut to these rows."""
    step: int = 0
    """The training step, from 0."""


class LossOutput(NamedTuple):
    """The result of a policy loss."""

    loss_B_T: Tensor
    """[B, T]: the loss of each token, zero off the mask."""
    metrics: Mapping[str, tuple[Tensor, Tensor]]
    """Name -> (sum, count) over tokens. Both are added up over micro-batches and ranks before they are divided."""
