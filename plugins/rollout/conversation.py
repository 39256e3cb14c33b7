"""A conversation plays one episode: it gives prompts, takes what was sampled, and asks the environment."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from ...core.components import Answer, Completion, Env, Environment, Step
from ...core.compose.experiment import Rollout
from ...core.errors import RequestError
from .awaiting import settled
from .borders import name_of
from .dialogue import require_nameable, setting_of
from .episode import Episode, Turn
from .template import Template
from .time_limit import TimeLimit

_LONGEST_TOKEN = 512
"""The number of characters that a token has at most. A longer text than the context could hold is not tokenised."""


@attrs.frozen
class Opening:
    """An episode that an environment has made, with the text of its first turn."""

    env: Env
    observation: str


def open_episode(environment: Environment, rollout: Rollout, seed: int, member: int) -> Opening:
    """Let the environment make an episode. This asks nothing but the environment, so any thread may do it.

    Raises:
        EpisodeLostError: the environment lost it, or takes longer than ``rollout.step_timeout``.
    """
    limit = TimeLimit(name_of(environment), rollout.step_timeout, seed, member)
    env = limit("a new episode", settled, environment.make, seed, member)
    return Opening(env, limit("the first observation", settled, env.initial_observation))


@attrs.frozen
class Heard:
    """What was sampled in a turn, and how the dialogue read it."""

    completion: Completion
    response: str
    answer: Answer


class Conversation:
    """An episode that is being played. Its ``prompt`` is the next turn's; :meth:`advance` takes what was sampled.

    A turn has three parts, of which :meth:`play` asks nothing but the environment: any thread may run it, while other
    conversations go on.

    A turn needs room for ``max_tokens`` after its prompt. An episode whose next turn could exceed ``max_context`` ends
    before it as truncated, so that no row is ever cut.

    Raises:
        RequestError: there is no room for the first turn.
        EpisodeLostError: the environment lost the episode or takes longer than ``rollout.step_timeout``, here or in a
            later turn.
        RunError: the dialogue takes that long to read an answer; or the environment has an action that the dialogue
            cannot name.
    """

    def __init__(
        self,
        environment: Environment,
        rollout: Rollout,
        template: Template,
        seed: int,
        member: int = 0,
        opening: Opening | None = None,
    ) -> None:
        self.rollout = rollout
        self.template = template
        self.seed = seed
        self.member = member
        self.dialogue = template.dialogue
        self.limit = TimeLimit(name_of(environment), rollout.step_timeout, seed, member)
        self.reading = TimeLimit(name_of(self.dialogue), rollout.step_timeout, seed, member, "dialogue")
        self.setting = self.limit("its instruction", setting_of, environment, rollout)
        require_nameable(environment, self.dialogue, self.setting)
        self.system = self.dialogue.system(self.setting)
        self.reply = self.dialogue.reply(self.setting)
        opening = opening or open_episode(environment, rollout, seed, member)
        self.env = opening.env
        self.state = opening.observation.strip("\n")
        self.stop: str | None = None
        """The reason why the episode has ended; ``None`` while it runs."""
        self.executed = 0
        """The number of actions that were played."""
        self.turns: list[Turn] = []
        self.blocks: list[str] = []
        """The text of each turn about the environment, as the dialogue's ``ask`` gave it."""
        self.users: list[str] = []
        """Each turn's user message in a chat: the outcome of the turn before, then the turn's block."""
        self.totals: dict[str, list[float]] = {}
        """The environment's metrics of each action, by name."""
        if not self._endless():
            self._ask()
        if self._endless() or self._full():
            size = (
                f"an observation of {len(self.state)} characters" if self._endless() else f"{len(self.prompt)} tokens"
            )
            raise RequestError(
                f"the first prompt has {size}: no room for a turn of {rollout.max_tokens}",
                f"rollout.max_context: {rollout.max_context}",
                "raise rollout.max_context or lower rollout.max_tokens",
            )

    def advance(self, completion: Completion) -> None:
        """Take one sampled response: play its actions, and write the next prompt unless the episode is over."""
        heard = self.hear(completion)
        self.take(heard, self.play(heard))

    def hear(self, completion: Completion) -> Heard:
        """Read one sampled response."""
        response = self.template.decode(completion)
        what = f"the answer of turn {len(self.turns) + 1}"
        return Heard(completion, response, self.reading(what, self.dialogue.parse, response, self.setting))

    def play(self, heard: Heard) -> list[Step]:
        """Let the environment play the actions of an answer, until one ends the episode; return its replies."""
        what = f"a step in turn {len(self.turns) + 1}"
        steps: list[Step] = []
        for action in heard.answer.actions[: self.rollout.max_actions - self.executed]:
            steps.append(self.limit(what, settled, self.env.step, action))
            if steps[-1].done:
                break
        return steps

    def take(self, heard: Heard, steps: Sequence[Step]) -> None:
        """Take the environment's replies, and write the next prompt unless the episode is over."""
        completion, answer = heard.completion, heard.answer
        reward, observation = 0.0, self.state
        done: str | None = None
        for step in steps:
            self._record(step)
            reward += step.reward
            if step.done:
                done = "success" if step.success else "done"
        self.executed += len(steps)
        self.turns.append(
            Turn(
                prompt=self.prompt,
                tokens=completion.tokens,
                logprobs=completion.logprobs,
                stop_reason=completion.stop_reason,
                user=self.user,
                response=heard.response,
                answer=answer,
                executed=len(steps),
                reward=reward,
                penalty=0.0 if answer.valid else self.rollout.format_penalty,
                observation=observation,
            )
        )
        self.stop = done or self._exhausted()
        if self.stop is None and self._endless():
            self.stop = "max_context"
        if self.stop is None:
            self._ask()
            if self._full():
                self.stop = "max_context"

    def episode(self) -> Episode:
        """Return the finished episode. Raises ValueError while it still runs."""
        if self.stop is None:
            raise ValueError("the episode has not ended")
        metrics = {name: sum(values) / len(values) for name, values in self.totals.items()}
        return Episode(self.seed, self.member, self.system, tuple(self.turns), self.stop, metrics)

    def _record(self, step: Step) -> None:
        self.state = step.observation.strip("\n")
        for name, value in step.metrics.items():
            self.totals.setdefault(name, []).append(float(value))

    def _exhausted(self) -> str | None:
        if self.executed >= self.rollout.max_actions:
            return "max_actions"
        return "max_turns" if len(self.turns) >= self.rollout.max_turns else None

    def _endless(self) -> bool:
        """Say whether the observation alone is too long, however few tokens it takes."""
        return len(self.state) > _LONGEST_TOKEN * self.rollout.max_context

    def _full(self) -> bool:
        return len(self.prompt) + self.rollout.max_tokens > self.rollout.max_context

    def _ask(self) -> None:
        """Write the user message of the next turn and the prompt that it ends."""
        actions_left = self.rollout.max_actions - self.executed
        block = self.dialogue.ask(len(self.turns) + 1, self.state, actions_left, self.setting)
        self.blocks.append(block)
        self.users.append(_lines(self._outcome(self.turns[-1]), block) if self.turns else block)
        start = self._window_start()
        if self.rollout.context_window == "single_turn":
            self.user = _lines(*self._history(start), block)
            self.prompt = self.template.first(self.system, self.user, self.reply)
            return
        self.user = self.users[-1]
        if self.turns and start == 0:  # the tokens so far stay as they are: only what is new is encoded
            self.prompt += self._bridged(self.users, self.turns[-1])
            return
        shown = self.users[start:]
        self.prompt = self.template.first(self.system, shown[0], self.reply)
        for number, turn in enumerate(self.turns[start:], 2):
            self.prompt += self._bridged(shown[:number], turn)

    def _bridged(self, users: list[str], turn: Turn) -> tuple[int, ...]:
        """Return what was sampled in ``turn``, and the tokens between it and the next response."""
        return turn.tokens + self.template.bridge(self.system, users, turn.tokens, self.reply)

    def _window_start(self) -> int:
        """Return the first turn (from 0) that the next prompt shows."""
        size = self.rollout.window_turns
        if self.rollout.context_window == "full" or size < 0:
            return 0
        return max(0, len(self.turns) + 1 - size)

    def _history(self, start: int) -> list[str]:
        """Return the texts of the earlier turns that a ``single_turn`` window shows."""
        texts: list[str] = []
        # the block of the turn that is about to be asked has no turn yet
        for block, turn in zip(self.blocks[start:], self.turns[start:], strict=False):
            texts += [block, self.dialogue.summary(turn.answer), self._outcome(turn)]
        return texts

    def _outcome(self, turn: Turn) -> str:
        return self.dialogue.outcome(turn.reward, turn.answer, self.setting)


def _lines(*texts: str) -> str:
    """Join texts that each begin a new line; an empty one adds none."""
    return "\n".join(text for text in texts if text)
