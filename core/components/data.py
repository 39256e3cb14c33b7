"""The objects that components hand to each other: rollouts, scores, completions, verdicts."""

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
        *("sampler_logprobs", "reference", "greedy_rewards", "rewards_by_name", "minibatch", "scorer"),
    }
)
"""Names of the data that a component may ask for.

* ``values``: the critic's values;
* ``groups``: groups of at least two episodes;
* ``turns``: episodes of several turns;
* ``entropies``, ``logprobs``, ``second_moments``, ``collision_probs``: those of each sampled token, under the policy
  that sampled it;
* ``sampler_logprobs``: log-probs as the rollout engine itself reported them;
* ``reference``: log-probs under the reference;
* ``greedy_rewards``: the reward of one greedy episode for each group;
* ``rewards_by_name``: at least two rewards that the environment names, apart;
* ``minibatch``: the log-probs of a whole mini-batch just before its optimizer step;
* ``scorer``: a function that scores any sequence of tokens with the policy.
"""


@attrs.frozen(eq=False)
class Rollouts:
    """Sampled conversations as right-padded rows of the very tokens that were sampled.

    Raises:
        RunError: a reward stands off the mask, a raw reward is not finite, or shapes disagree.
    """

    tokens: Tensor
    """[B, T] int64, right padded."""
    mask: Tensor
    """[B, T] bool: whether the policy sampled the token, which therefore trains."""
    turns: Tensor
    """[B, T] int64: the turn of a sampled token, -1 off the mask."""
    logprobs: Tensor
    """[B, T] nats: the sampler's log-prob of each sampled token, 0 off the mask."""
    rewards: Tensor
    """[B, T] reward units: rewards as the advantage estimator sees them, after shaping and normalisation, placed on
    sampled tokens."""
    episodes: Tensor
    """[B] int64: the row's episode, an index into ``raw_rewards_E``."""
    groups: Tensor
    """[B] int64: the row's group id; rows of a group share their first prompt."""
    raw_rewards_E: Tensor
    """[E] reward units: the episode's reward with its format penalties, before any normalisation."""
    group_ids_P: Tensor
    """[P] int64: the distinct group ids, in batch order."""
    entropies: Tensor | None = None
    """[B, T] nats: the policy's entropy at each sampled token; ``None`` unless a component needs it."""
    lengths: Tensor | None = None
    """[B] int64: tokens before the right padding; ``None`` means that no row is padded."""
    states: Tensor | None = None
    """[B, T] int64: the observation before the sampled token's turn, equal where its text is; -1 off the mask."""
    success_E: Tensor | None = None
    """[E] bool: whether the episode succeeded."""
    truncated_E: Tensor | None = None
    """[E] bool: whether a limit of turns, actions or tokens ended the episode."""
    rewards_by_name: Mapping[str, Tensor] = attrs.field(factory=dict)
    """Name -> [E] reward units: the rewards that the environment names (``Environment.reward_names``), as it gave them.
    Where format penalties may be charged, they are another reward, ``format_penalty``, which is 0 or negative."""
    reward_weights: Mapping[str, float] = attrs.field(factory=dict)
    """Name -> the weight of each of ``rewards_by_name``, whose weighted sum is ``raw_rewards_E``."""

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
        _require_finite("an episode reward", "raw_rewards_E", self.raw_rewards_E)
        for name, rewards_E in self.rewards_by_name.items():
            if rewards_E.shape != self.raw_rewards_E.shape:
                shape, expected = tuple(rewards_E.shape), tuple(self.raw_rewards_E.shape)
                raise RunError(f"rollouts.rewards_by_name[{name!r}] has shape {shape}, raw_rewards_E has {expected}")
            _require_finite(f"a reward {name!r}", f"rewards_by_name[{name!r}]", rewards_E)

    def groups_of_episodes(self) -> Tensor:
        """Return the group id of each episode, [E] int64."""
        groups_E = self.groups.new_zeros(len(self.raw_rewards_E))
        groups_E[self.episodes] = self.groups
        return groups_E

    def rows_of(self, keep_P: Tensor) -> Tensor:
        """Return which rows belong to the kept groups, [B] bool."""
        return (self.groups[:, None] == self.group_ids_P[keep_P][None, :]).any(1)

    def episodes_of(self, keep_P: Tensor) -> Tensor:
        """Return which episodes belong to the kept groups, [E] bool."""
        return (self.groups_of_episodes()[:, None] == self.group_ids_P[keep_P][None, :]).any(1)

    def select(self, keep_P: Tensor) -> Rollouts:
        """Return the rows of the kept groups, in their original order; episodes are numbered anew."""
        return self.select_episodes(self.episodes_of(keep_P))

    def select_episodes(self, keep_E: Tensor) -> Rollouts:
        """Return the rows of the kept episodes, in their original order; groups without an episode are left out."""
        keep_B = keep_E[self.episodes]
        new_index_E = keep_E.long().cumsum(0) - 1
        per_row = ("tokens", "mask", "turns", "logprobs", "rewards", "groups", "entropies", "lengths", "states")
        per_episode = ("raw_rewards_E", "success_E", "truncated_E")
        keep_P = (self.group_ids_P[:, None] == self.groups_of_episodes()[keep_E][None, :]).any(1)
        return attrs.evolve(
            self,
            **self._chosen(per_row, keep_B),
            **self._chosen(per_episode, keep_E),
            rewards_by_name={name: rewards_E[keep_E] for name, rewards_E in self.rewards_by_name.items()},
            episodes=new_index_E[self.episodes[keep_B]],
            group_ids_P=self.group_ids_P[keep_P],
        )

    def _chosen(self, names: tuple[str, ...], keep: Tensor) -> dict[str, Any]:
        """Return those of the named fields that are set, with only their kept rows or episodes."""
        values = {name: getattr(self, name) for name in names}
        return {name: value[keep] for name, value in values.items() if value is not None}


def _require_finite(what: str, field: str, rewards_E: Tensor) -> None:
    if not bool(rewards_E.isfinite().all()):
        raise RunError(
            f"{what} is NaN or infinite",
            f"rollouts.{field} at {(~rewards_E.isfinite()).nonzero().flatten().tolist()}",
            "the environment must return finite rewards",
        )


@attrs.frozen
class Group:
    """The episodes of one task that the policy of one step has played.

    Task samplers learn from groups, and batch samplers collect them.

    A checkpoint keeps a group as it is, wherever it stands in the state of a sampler.
    """

    seed: int
    """The environment seed, which names the task."""
    episodes: tuple[Any, ...]
    """The members in their order, each a ``plugins.rollout.episode.Episode``."""
    rewards: tuple[float, ...]
    """The raw reward of each episode in reward units, format penalties included."""
    successes: tuple[bool, ...]
    """Whether each episode succeeded."""
    step: int
    """The training step (from 0) whose policy sampled the group."""


@attrs.frozen(eq=False)
class Advantages:
    """The result of an advantage estimator. Both tensors are zero off the mask."""

    advantages: Tensor
    """[B, T]: the credit of each token."""
    returns: Tensor
    """[B, T] reward units: what the critic is trained to predict."""


@attrs.frozen
class Verdict:
    """A detector's statement that the run has collapsed, with its evidence."""

    detector: str
    """The detector's name."""
    step: int
    """The training step, from 1."""
    reason: str
    """A sentence that says what has collapsed."""
    evidence: Mapping[str, Any] = attrs.field(factory=dict)
    """The numbers that led to the verdict, by name."""
    stop: bool = True
    """Whether the run is to stop; otherwise the verdict is recorded, and the run goes on."""


@attrs.frozen
class Step:
    """The environment's reply to one action."""

    observation: str
    """Text that the policy is shown next."""
    reward: float = 0.0
    """The reward of this action; 0 where ``rewards`` are given."""
    done: bool = False
    """Whether the episode ends here."""
    success: bool = False
    """Whether the episode has reached its goal."""
    metrics: Mapping[str, float] = attrs.field(factory=dict)
    """Numbers about this action, e.g. ``{"tool_called": 1.0}``; an episode logs the mean over all its actions."""
    rewards: Mapping[str, float] = attrs.field(factory=dict)
    """The rewards of this action by their names in ``Environment.reward_names``; one that is left out is 0. Their sum,
    weighted by ``reward.weights``, becomes the reward of the action."""


@attrs.frozen
class Sampling:
    """The settings of sampling. Temperature 0 decodes greedily; log-probs are then those at temperature 1."""

    temperature: float = 1.0
    max_tokens: int = 400
    """The largest number of tokens in a completion."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion, and are part of it."""


@attrs.frozen
class Completion:
    """One sampled response: its tokens, their log-probs in nats at the sampling temperature, and why it ended."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: str
    """The reason why it ended: ``eos`` (an end-of-turn token, the last of ``tokens``), ``stop`` (a stop string) or
    ``length`` (``max_tokens``)."""


@attrs.frozen(eq=False)
class Scores:
    """What a forward pass computes for the tokens on the mask: zero off the mask, ``None`` where not asked for."""

    logprobs: Tensor | None = None
    """[B, T] nats: the log-prob of each token."""
    entropies: Tensor | None = None
    """[B, T] nats: the entropy of the distribution that each token was sampled from."""
    values: Tensor | None = None
    """[B, T] reward units: the critic's value of the state before token t."""
    second_moments: Tensor | None = None
    """[B, T] nats squared: sum_v p_v (log p_v)^2."""
    collision_probs: Tensor | None = None
    """[B, T] 0 to 1: sum_v p_v^2."""


Wanted = Literal["none", "value", "gradient"]
"""Whether a statistic is left out (``none``), computed (``value``), or computed with a gradient (``gradient``)."""


@attrs.frozen(eq=False)
class TokenScores:
    """What a token head computes for N tokens, in fp32; ``None`` where not asked for."""

    logprobs: Tensor
    """[N] nats: log p of the target, always with a gradient."""
    entropies: Tensor | None = None
    """[N] nats: H = -sum_v p_v log p_v."""
    second_moments: Tensor | None = None
    """[N] nats squared: M = sum_v p_v (log p_v)^2, so that M - H^2 is the varentropy, the variance of log p."""
    collision_probs: Tensor | None = None
    """[N] 0 to 1: sum_v p_v^2, how probable it is that two draws are the same token."""
