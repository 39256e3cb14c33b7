"""A conversation plays one episode: it gives prompts, takes what was sampled, and asks the environment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress

import attrs

from ...core.components import Answer, Call, Completion, Env, Environment, Step
from ...core.compose.experiment import Rollout
from ...core.errors import RequestError, RunError
from .awaiting import settled
from .borders import name_of
from .dialogue import require_nameable, setting_of
from .episode import Episode, Told, Turn
from .messages import Result, Said, text_of
from .named_rewards import summed
from .template import Template
from .time_limit import TimeLimit
from .tool_failures import ToolFailedError

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
    try:
        return Opening(env, limit("the first observation", settled, env.initial_observation))
    except BaseException:
        with suppress(RunError):  # what has happened is told, not what follows from it
            close_episode(environment, rollout, seed, member, env)
        raise


def close_episode(environment: Environment, rollout: Rollout, seed: int, member: int, env: Env) -> None:
    """Let an episode release what it holds. Any thread may do it.

    Raises:
        EpisodeLostError: it takes longer than ``rollout.step_timeout``.
    """
    TimeLimit(name_of(environment), rollout.step_timeout, seed, member)("closing", settled, env.close)


@attrs.frozen
class Heard:
    """What was sampled in a turn, and how the dialogue read it."""

    completion: Completion
    response: str
    answer: Answer


@attrs.frozen
class Reply:
    """The environment's reply to an action, or to a call."""

    call: Call | None
    """The call, unless an action was played."""
    step: Step | None
    """What the environment gave; ``None`` for a call that cannot be played, of which it never hears."""
    failed: bool = False
    """Whether the tool that was called has failed."""


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
        setting = self.limit("its instruction", setting_of, environment, rollout)
        require_nameable(environment, self.dialogue, setting)
        opening = opening or open_episode(environment, rollout, seed, member)
        self.env = opening.env
        instruction = "\n\n".join(filter(None, (self.env.system_text, setting.instruction)))
        self.setting = attrs.evolve(setting, instruction=instruction)
        self.system = self.dialogue.system(self.setting)
        self.reply = self.dialogue.reply(self.setting)
        self.tools = self.dialogue.tools(self.setting)
        self.state = opening.observation.strip("\n")
        self.stop: str | None = None
        """The reason why the episode has ended; ``None`` while it runs."""
        self.executed = 0
        """The number of actions that were played."""
        self.turns: list[Turn] = []
        self.blocks: list[str] = []
        """The text of each turn about the environment, as the dialogue's ``ask`` gave it, or the results of calls."""
        self.said: list[Said] = []
        """What each turn says in a chat: the outcome of the turn before, then the turn's block; or results of calls."""
        self.results: tuple[Result, ...] = ()
        """The results of the calls in the last answer."""
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

    def play(self, heard: Heard) -> list[Reply]:
        """Let the environment play the actions or calls of an answer, until one ends the episode."""
        left = self.rollout.max_actions - self.executed
        replies: list[Reply] = []
        played: tuple[str | Call, ...] = heard.answer.calls or heard.answer.actions
        for each in played:
            call = each if isinstance(each, Call) else None
            if call and call.problem:
                replies.append(Reply(call, None))
                continue
            if left == 0:
                break
            left -= 1
            try:
                step, failed = self._step(each), False
            except ToolFailedError as error:
                step, failed = Step(f"Error: {error.what}"), True
            replies.append(Reply(call, step, failed))
            if step.done:
                break
        return replies

    def _step(self, played: str | Call) -> Step:
        """Let the environment play an action or a call."""
        what = f"a step in turn {len(self.turns) + 1}"
        if isinstance(played, Call) and not played.action:
            return self.limit(what, settled, self.env.call, played.name, json.loads(played.arguments))
        return self.limit(what, settled, self.env.step, played.action if isinstance(played, Call) else played)

    def take(self, heard: Heard, replies: Sequence[Reply]) -> None:
        """Take the environment's replies, and write the next prompt unless the episode is over."""
        completion, answer, observation = heard.completion, heard.answer, self.state
        steps = [reply.step for reply in replies if reply.step]
        results: list[Result] = []
        for reply in replies:
            if reply.step:
                self._record(reply.step)
            if call := reply.call:
                text = self.state if reply.step else call.problem
                results.append(Result(call.name, self.dialogue.result(call, text, self.setting)))
        self.results = tuple(results)
        done = ("success" if steps[-1].success else "done") if steps and steps[-1].done else None
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
                reward=sum((step.reward for step in steps), 0.0),
                penalty=0.0 if answer.valid else self.rollout.format_penalty,
                observation=observation,
                rewards=summed(step.rewards for step in steps),
                failed=sum(reply.failed for reply in replies),
                results=tuple(Told.of(result.text) for result in results),
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
        last = self.turns[-1]
        ending = Told.of(self.state) if last.executed and not last.results else Told()
        return Episode(
            self.seed,
            self.member,
            self.system,
            tuple(self.turns),
            self.stop,
            metrics,
            tuple((asked, answer) for asked, answer in self.env.earlier_turns),
            ending,
        )

    def _record(self, step: Step) -> None:
        self.state = step.observation.strip("\n")
        for name, value in step.metrics.items():
            self.totals.setdefault(name, []).append(float(value))

    def _exhausted(self) -> str | None:
        if self.executed >= self.rollout.max_actions:
            return "max_actions"
        return "max_turns" if len(self.turns) >= self.rollout.max_turns else None

    def _endless(self) -> bool:
        """Say whether the observation, or what was called for, is too long however few tokens it takes."""
        size = max(len(self.state), *(len(result.text) for result in self.results), 0)
        return size > _LONGEST_TOKEN * self.rollout.max_context

    def _full(self) -> bool:
        return len(self.prompt) + self.rollout.max_tokens > self.rollout.max_context

    def _ask(self) -> None:
        """Write the user message of the next turn and the prompt that it ends."""
        if self.results:
            block = text_of(self.results)
            self.said.append(self.results if self.tools else block)
        else:
            actions_left = self.rollout.max_actions - self.executed
            block = self.dialogue.ask(len(self.turns) + 1, self.state, actions_left, self.setting)
            self.said.append(_lines(self._outcome(self.turns[-1]), block) if self.turns else block)
        self.blocks.append(block)
        start = self._window_start()
        if self.rollout.context_window == "single_turn":
            self.user = _lines(*self._history(start), block)
            self.prompt = self._first(self.user)
            return
        self.user = text_of(self.said[-1])
        if self.turns and start == 0:  # the tokens so far stay as they are: only what is new is encoded
            self.prompt += self._bridged(self.said, self.turns[-1])
            return
        shown = [text_of(self.said[start]), *self.said[start + 1 :]]
        self.prompt = self._first(text_of(shown[0]))
        for number, turn in enumerate(self.turns[start:], 2):
            self.prompt += self._bridged(shown[:number], turn)

    def _bridged(self, said: list[Said], turn: Turn) -> tuple[int, ...]:
        """Return what was sampled in ``turn``, and the tokens between it and the next response."""
        whole = [*(asked for asked, _ in self.env.earlier_turns), *said]
        return turn.tokens + self.template.bridge(self.system, whole, turn.tokens, self.reply, self.tools)

    def _first(self, user: str) -> tuple[int, ...]:
        """Return the prompt of the first turn that is shown."""
        return self.template.first(self.system, user, self.reply, self.tools, self.env.earlier_turns)

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
