"""What components hand to each other: rollouts, scores, completions, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ..errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

NEEDS = frozenset(
    {
        *("values", "groups", "turns", "entropies", "logprobs", "second_moments", "collision_probs"),
        *("sampler_logprobs", "reference", "greedy_rewards", "minibatch", "scorer"),
    }
)
"""What a component may ask for: critic values; groups of at least two; several turns; the sampling policy's token
entropies, log-probs, second moments of the log-probs and collision probabilities; the sampler's own log-probs;
reference log-probs; rewards of a greedy rollout per group; the current log-probs of a whole mini-batch before its
optimizer step; a scorer of arbitrary token sequences."""


@attrs.frozen(eq=False)
class Rollouts:
    """Sampled conversations as right-padded rows of the very tokens that were sampled.

    Raises:
        RunError: a reward stands off the mask, a raw reward is not finite, or shapes disagree.
    """

    tokens: Tensor
    """[B, T] int64, right padded."""
    mask: Tensor
    """[B, T] bool: token t was sampled by the policy (and so trains)."""
    turns: Tensor
    """[B, T] int64: the turn of a sampled token, -1 off the mask."""
    logprobs: Tensor
    """[B, T] nats: the sampler's log-prob of each sampled token, 0 off the mask."""
    rewards: Tensor
    """[B, T]: what the advantage estimator sees, placed on sampled tokens, after reward shaping and normalisation."""
    episodes: Tensor
    """[B] int64: the row's episode, an index into ``raw_rewards_E``."""
    groups: Tensor
    """[B] int64: the row's group id; rows of a group share their first prompt."""
    raw_rewards_E: Tensor
    """[E]: episode reward with format penalty, before any normalisation."""
    group_ids_P: Tensor
    """[P] int64: the distinct group ids, in batch order."""
    entropies: Tensor | None = None
    """[B, T] nats: token entropy of the policy where the mask is set, if somebody needs it."""
    lengths: Tensor | None = None
    """[B] int64: tokens before the right padding; ``None`` means that no row is padded."""
    states: Tensor | None = None
    """[B, T] int64: the observation before the sampled token's turn, equal where its text is; -1 off the mask."""
    success_E: Tensor | None = None
    """[E] bool: whether the episode succeeded."""
    truncated_E: Tensor | None = None
    """[E] bool: whether a limit of turns, actions or tokens ended the episode."""

    def __attrs_post_init__(self) -> None:
        for name in ("mask", "turns", "logprobs", "rewards"):
            shape = tuple(getattr(self, name).shape)
            if shape != tuple(self.tokens.shape):
                raise RunError(f"rollouts.{name} has shape {shape}, tokens have {tuple(self.tokens.shape)}")
        if bool((self.rewards[~self.mask] != 0).any()):
            raise RunError(
                "a reward stands on a token that the policy did not sample",
                "rollouts.rewards off rollouts.mask",
                "place rewards on sampled tokens: the last token of the turn or of the episode",
            )
        if not bool(self.raw_rewards_E.isfinite().all()):
            raise RunError(
                "an episode reward is NaN or infinite",
                f"rollouts.raw_rewards_E at {(~self.raw_rewards_E.isfinite()).nonzero().flatten().tolist()}",
                "the environment must return finite rewards",
            )

    def groups_of_episodes(self) -> Tensor:
        """[E] int64: the group id of each episode, from any of its rows."""
        groups_E = self.groups.new_zeros(len(self.raw_rewards_E))
        groups_E[self.episodes] = self.groups
        return groups_E

    def rows_of(self, keep_P: Tensor) -> Tensor:
        """[B] bool: the rows of the kept groups."""
        return (self.groups[:, None] == self.group_ids_P[keep_P][None, :]).any(1)

    def episodes_of(self, keep_P: Tensor) -> Tensor:
        """[E] bool: the episodes of the kept groups."""
        return (self.groups_of_episodes()[:, None] == self.group_ids_P[keep_P][None, :]).any(1)

    def select(self, keep_P: Tensor) -> Rollouts:
        """The rows of the kept groups, in their original order; episodes are renumbered."""
        return self.select_episodes(self.episodes_of(keep_P))

    def select_episodes(self, keep_E: Tensor) -> Rollouts:
        """The rows of the kept episodes, in their original order; groups without an episode are gone."""
        rows = keep_E[self.episodes]
        renumbered_E = keep_E.long().cumsum(0) - 1
        per_row = {
            name: value[rows]
            for name in ("tokens", "mask", "turns", "logprobs", "rewards", "groups", "entropies", "lengths", "states")
            if (value := getattr(self, name)) is not None
        }
        per_episode = {
            name: value[keep_E]
            for name in ("raw_rewards_E", "success_E", "truncated_E")
            if (value := getattr(self, name)) is not None
        }
        left_P = (self.group_ids_P[:, None] == self.groups_of_episodes()[keep_E][None, :]).any(1)
        return attrs.evolve(
            self,
            **per_row,
            **per_episode,
            episodes=renumbered_E[self.episodes[rows]],
            group_ids_P=self.group_ids_P[left_P],
        )


@attrs.frozen
class Group:
    """The episodes of one task that one policy has played: what task samplers learn from, and batch samplers collect.

    A checkpoint keeps a group as it is, wherever it stands in the state of a sampler.
    """

    seed: int
    """The environment seed, which names the task."""
    episodes: tuple[Any, ...]
    """``plugins.rollout.episode.Episode``: the members, in their order."""
    rewards: tuple[float, ...]
    """Reward units: of each episode, raw, with format penalties."""
    successes: tuple[bool, ...]
    """Whether each episode succeeded."""
    step: int
    """The training step, from 0, whose policy has sampled it."""


@attrs.frozen(eq=False)
class Advantages:
    """What an advantage estimator returns; both are zero off the mask."""

    advantages: Tensor
    """[B, T]."""
    returns: Tensor
    """[B, T]: the critic's target."""


@attrs.frozen
class Verdict:
    """A detector's judgement that the run has collapsed, with what it saw."""

    detector: str
    step: int
    reason: str
    evidence: Mapping[str, Any] = attrs.field(factory=dict)
    stop: bool = True
    """Whether the run is to stop; otherwise the verdict is recorded, and the run goes on."""


@attrs.frozen
class Step:
    """What an environment answers to one action."""

    observation: str
    reward: float
    done: bool = False
    success: bool = False
    metrics: Mapping[str, float] = attrs.field(factory=dict)
    """Numbers about this action, e.g. ``{"tool_called": 1.0}``; an episode logs the mean over all that it played."""


@attrs.frozen
class Sampling:
    """How to sample; temperature 0 is greedy (log-probs are then those at temperature 1)."""

    temperature: float = 1.0
    max_tokens: int = 400
    stop: tuple[str, ...] = ()
    """Strings that end a completion; they are part of it."""


@attrs.frozen
class Completion:
    """One sampled continuation: token ids, their log-probs in nats at the sampling temperature, and why it ended."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: str
    """``eos`` (an end-of-turn token, which is part of ``tokens``), ``stop`` (a stop string) or ``length``."""


@attrs.frozen(eq=False)
class Scores:
    """What a forward pass says of the tokens on the mask; zero elsewhere, ``None`` where not asked for."""

    logprobs: Tensor | None = None
    """[B, T] nats."""
    entropies: Tensor | None = None
    """[B, T] nats."""
    values: Tensor | None = None
    """[B, T] reward units: the critic's value of the state before token t."""
    second_moments: Tensor | None = None
    """[B, T] nats squared: sum_v p_v (log p_v)^2."""
    collision_probs: Tensor | None = None
    """[B, T] 0 to 1: sum_v p_v^2."""


Wanted = Literal["none", "value", "gradient"]
"""Whether a statistic is left out, computed, or computed so that it can be differentiated."""


@attrs.frozen(eq=False)
class TokenScores:
    """What a token head says of N tokens: fp32, ``None`` where not asked for."""

    logprobs: Tensor
    """[N] nats: log p of the target. Always differentiable."""
    entropies: Tensor | None = None
    """[N] nats: H = -sum_v p_v log p_v."""
    second_moments: Tensor | None = None
    """[N] nats squared: M = sum_v p_v (log p_v)^2, so that M - H^2 is the varentropy, the variance of log p."""
    collision_probs: Tensor | None = None
    """[N] 0 to 1: sum_v p_v^2, how probable it is that two draws are the same token."""
