"""A finished conversation as plain, picklable data: what crosses process borders."""

from __future__ import annotations

import attrs

from ...core.components import Answer


@attrs.frozen
class Turn:
    """One prompt and what was sampled after it."""

    prompt: tuple[int, ...]
    """Every token before the first sampled one, the forced opening included."""
    tokens: tuple[int, ...]
    """The sampled tokens."""
    logprobs: tuple[float, ...]
    """Nats at the sampling temperature."""
    stop_reason: str
    """``eos``, ``stop`` or ``length``."""
    user: str
    response: str
    answer: Answer
    executed: int
    """Actions that the environment took; fewer than the answer's when the episode or its budget ended."""
    reward: float
    """Sum of the environment's rewards."""
    penalty: float
    """The format penalty, at least 0; part of the episode's reward, never shown to the model."""
    observation: str = ""
    """What the environment showed before the turn, as it is: without the number of the turn or the actions left."""


@attrs.frozen
class Episode:
    """One member of one group."""

    seed: int
    """The group's environment seed: it names the group."""
    member: int
    system: str
    turns: tuple[Turn, ...]
    stop: str
    """``success``, ``done`` (ended by the environment without success), or truncated: ``max_turns``, ``max_actions``,
    ``max_context``."""
    metrics: dict[str, float]
    """The environment's metrics, averaged over the executed actions."""

    @property
    def response(self) -> str:
        """What the policy wrote, a turn a line or more."""
        return "\n".join(turn.response for turn in self.turns)

    @property
    def success(self) -> bool:
        return self.stop == "success"

    @property
    def truncated(self) -> bool:
        return self.stop.startswith("max_")

    @property
    def reward(self) -> float:
        """Rewards of all turns less the format penalties."""
        return sum(turn.reward - turn.penalty for turn in self.turns)
