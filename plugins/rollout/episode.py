"""A finished conversation is plain, picklable data, which is sent between processes."""

from __future__ import annotations

import attrs

from ...core.components import Answer

LONGEST_TOLD = 4_000
"""The number of characters of a :class:`Told` that are kept, since what ends an episode may be of any length."""


@attrs.frozen
class Told:
    """The beginning of a text of the environment, kept for transcripts alone."""

    text: str = ""
    left_out: int = 0
    """The number of characters that are not kept."""

    @classmethod
    def of(cls, text: str) -> Told:
        return cls(text[:LONGEST_TOLD], max(0, len(text) - LONGEST_TOLD))


@attrs.frozen
class Turn:
    """A prompt, the response that was sampled after it, and what the environment did."""

    prompt: tuple[int, ...]
    """The tokens before the first sampled one, the dialogue's opening included."""
    tokens: tuple[int, ...]
    """The sampled tokens."""
    logprobs: tuple[float, ...]
    """The log-prob of each token in nats, at the sampling temperature."""
    stop_reason: str
    """The reason why the response ended: ``eos``, ``stop`` or ``length``."""
    user: str
    """The user message."""
    response: str
    """The response as text, the opening included."""
    answer: Answer
    """The answer that the dialogue read in the response."""
    executed: int
    """The number of actions that were played; fewer than the answer's if the episode or its limit ended."""
    reward: float
    """The sum of the environment's rewards in this turn."""
    penalty: float
    """The format penalty, at least 0; part of the episode's reward, never shown to the model."""
    observation: str = ""
    """What the environment showed before the turn, as it is: without the number of the turn or the actions left."""
    rewards: dict[str, float] = attrs.field(factory=dict)
    """The sums of the rewards that the environment names, in this turn, without their weights."""
    failed: int = 0
    """The number of calls whose tool has failed."""
    results: tuple[Told, ...] = ()
    """The results of the answer's calls, in their order; there are fewer where the episode or its limit ended."""


@attrs.frozen
class Episode:
    """A finished conversation, which is one member of a group."""

    seed: int
    """The environment seed of the group, which names it."""
    member: int
    """The number of the episode in its group, from 0."""
    system: str
    """The system message."""
    turns: tuple[Turn, ...]
    """The turns in their order."""
    stop: str
    """The reason why it ended: ``success``; ``done``, where the environment ended it without success; or truncated by
    ``max_turns``, ``max_actions`` or ``max_context``."""
    metrics: dict[str, float]
    """The environment's metrics, averaged over the executed actions."""
    earlier: tuple[tuple[str, str], ...] = ()
    """The texts of a user, each with its answer, that stand before the first turn."""
    ending: Told = Told()
    """What the environment showed after the last action; empty where the last turn calls tools, or plays nothing."""

    @property
    def response(self) -> str:
        """The responses of all turns, each of which begins a new line."""
        return "\n".join(turn.response for turn in self.turns)

    @property
    def success(self) -> bool:
        """Whether the episode reached its goal."""
        return self.stop == "success"

    @property
    def truncated(self) -> bool:
        """Whether a limit of turns, actions or tokens ended the episode."""
        return self.stop.startswith("max_")

    @property
    def reward(self) -> float:
        """The rewards of all turns less the format penalties."""
        return sum(turn.reward - turn.penalty for turn in self.turns)
