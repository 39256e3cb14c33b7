"""An episode of an environment of the package verifiers, played step by step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from traceback import walk_tb
from typing import Any

import attrs
from verifiers.v1.errors import ProviderError
from verifiers.v1.types import AssistantMessage, ToolCall

from .....core.components import Env, Step
from .....core.errors import EpisodeLostError, RunError, UncollapseError
from ...common import refuse_after_end
from ...dataset_values import Question, question_of
from .loop import Chances, Loop
from .rollout import Exchange, Player, play


@attrs.frozen
class Place:
    """The environment of the package and the task that an episode plays."""

    env: Any
    """Environment of the package."""
    task: Any
    """Task of the package."""
    shared: Callable[[], list[Any]]
    """Function that makes the tools which all tasks share."""
    names: tuple[str, ...]
    """Names of the rewards; empty for their sum alone."""
    weighed: frozenset[str]
    """Names of those that ``reward.weights`` weighs, and that are given without their weight."""
    threshold: float
    """Smallest sum of the rewards that is success."""
    where: str
    """Place for messages."""
    key: str
    """Task as text."""
    guarded: bool
    """Whether the episode has random numbers of its own."""


@attrs.define(slots=False)
class VerifiersEnv(Env):
    """An episode of :class:`.verifiers.Verifiers`. It asks the environment's own program, which waits in a loop."""

    about: Place
    """What is played."""
    chances: tuple[Chances, Chances]
    """Random numbers before the first prompt and after it."""
    first: Question = attrs.field(factory=lambda: Question(""))
    """First prompt."""
    calls: int = 0
    """Number of calls so far."""
    done: bool = False
    """Whether the episode is over."""

    def __attrs_post_init__(self) -> None:
        self.loop, self.exchange = Loop.of_thread(), Exchange()
        self.task: asyncio.Task[Any] | None = None
        spec = next(iter(self.about.env._agent_specs.values()))
        self.player = Player(spec, self.exchange, self.about.shared, self.about.where)

    @classmethod
    def started(cls, about: Place, chances: tuple[Chances, Chances]) -> VerifiersEnv:
        """Start an episode, and let it come to its first question.

        Raises:
            EpisodeLostError: the task waits for a server that does not answer.
            RunError: its program fails, or ends without a question.
        """
        env = cls(about, chances)
        try:
            env._go_on(chances[0])
            if env.exchange.asked is None:
                env._result()
                raise RunError("the episode ends before the policy is asked", about.where)
            env.first = _question(env.exchange.asked, about.where)
        except BaseException:
            env.close()
            raise
        return env

    @property
    def key(self) -> str:
        """Task, without its number."""
        return self.about.key

    @property
    def place(self) -> str:  # type: ignore[override]
        """Number of the task, for messages."""
        return f"task {self.about.task.data.idx}"

    @property
    def system_text(self) -> str:  # type: ignore[override]
        """System message of the task."""
        return self.first.system

    @property
    def earlier_turns(self) -> tuple[tuple[str, str], ...]:  # type: ignore[override]
        """Turns of the task's prompt before the last message."""
        return self.first.earlier

    def initial_observation(self) -> str:
        return self.first.text

    def step(self, action: str) -> Step:
        """Give a response without a call. Raises RunError after the end, and what :meth:`started` raises."""
        return self._answer(AssistantMessage(content=action))

    def call(self, name: str, arguments: Mapping[str, Any]) -> Step:
        """Give a response that calls one tool. Raises as :meth:`step`."""
        self.calls += 1
        call = ToolCall(id=f"call_{self.calls}", name=name, arguments=json.dumps(dict(arguments)))
        return self._answer(AssistantMessage(tool_calls=[call]))

    def _answer(self, message: AssistantMessage) -> Step:
        refuse_after_end(self.done)
        self.exchange.answer(message)
        self._go_on(self.chances[1])
        if self.exchange.asked is not None:
            return Step(_text(self.exchange.asked, self.about.where), 0.0)
        self.done = True
        return _scored(self._result(), self.about)

    def _go_on(self, chances: Chances) -> None:
        """Let the program run until it asks something or ends."""
        if not self.about.guarded:
            self.loop.run(self._until_asked())
            return
        with chances.drawn():
            self.loop.run(self._until_asked())

    async def _until_asked(self) -> None:
        about = self.about
        self.task = self.task or asyncio.ensure_future(play(about.env, about.task, self.player))
        asked: asyncio.Task[Any] = asyncio.ensure_future(self.exchange.changed.wait())
        await asyncio.wait({self.task, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()

    def _result(self) -> Any:
        """Return the trace of a program that has ended, or raise what it has failed with."""
        assert self.task is not None
        about, error = self.about, self.task.exception()
        rollout = self.player.rollout
        if error is None and rollout is not None:
            error = rollout.failure
            if error is None and rollout.trace.is_timeout:
                what = f"the task has used up its own time: {rollout.trace.stop_condition}"
                raise EpisodeLostError(what, f"{about.where}, {self.place}")
        if error is not None:
            raise _failure(error, f"{about.where}, {self.place}") from error
        return self.task.result()

    def close(self) -> None:
        """End the program, if it has not ended."""
        if self.task is not None:
            self.loop.end(self.task)

    def __del__(self) -> None:
        # an episode that runs out of turns is not told so
        with suppress(Exception):
            self.close()


def _question(messages: list[Any], where: str) -> Question:
    try:
        return question_of([{"role": message.role, "content": _content(message)} for message in messages])
    except ValueError as error:
        raise RunError(f"the first prompt cannot be shown: {error}", where) from error


def _text(messages: list[Any], where: str) -> str:
    try:
        return "\n\n".join(_content(message) for message in messages)
    except ValueError as error:
        raise RunError(str(error), where) from error


def _content(message: Any) -> str:
    """Return the text of a message. Raises ValueError if it holds something else."""
    if isinstance(message.content, str):
        return message.content
    if others := [part.type for part in message.content or () if part.type != "text"]:
        raise ValueError(f"a message holds something else than text ({others[0]})")
    return "\n".join(part.text for part in message.content or ())


def _scored(trace: Any, about: Place) -> Step:
    """Return the last step, with the rewards that the trace has."""
    rewards = {name: reward for name, reward in trace.rewards.items() if reward is not None}
    metrics = {name: value for name, value in trace.metrics.items() if value is not None}
    total = float(trace.reward)
    said = f"The episode is over. Reward: {total:g}"
    success = total >= about.threshold
    if not about.names:
        return Step(said, total, done=True, success=success, metrics=metrics)
    if others := [name for name in rewards if name not in about.names]:
        fix = f"name all of them in the parameter rewards, or none: rewards: [{', '.join((*about.names, *others))}]"
        raise RunError(f"the environment gives a reward {others[0]!r} that has not been declared", about.where, fix)
    scores = {name: reward.score if name in about.weighed else reward.value for name, reward in rewards.items()}
    return Step(said, done=True, success=success, metrics=metrics, rewards=scores)


def _failure(error: BaseException, where: str) -> BaseException:
    """Return the error that an exception of an environment's program is told as."""
    chain, each = [], error
    while each is not None and each not in chain:
        chain.append(each)
        each = each.__cause__ or each.__context__  # type: ignore[assignment]
    for each in chain:
        if isinstance(each, UncollapseError) or not isinstance(each, Exception):
            return each
    if any(map(_is_of_judge, chain)):
        return EpisodeLostError(f"a judge gives no verdict: {_told(chain[-1])}", where, "look at what it answers")
    if waited := [each for each in chain if _is_elsewhere(each)]:
        what = f"the environment has lost its connection: {_told(waited[-1])}"
        return EpisodeLostError(what, where, "bring its server back")
    fix = "mend the environment, and try one of its episodes"
    return RunError(f"the environment raised {_told(error)}", where, fix)


def _is_of_judge(error: BaseException) -> bool:
    """Say whether an error came through a judge of the package: its verdict is then missing, and never 0."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    return any(name.startswith("verifiers.v1.judge") for name in modules)


def _is_elsewhere(error: BaseException) -> bool:
    """Say whether an error is that of a server which is down or does not answer."""
    transport = any(name.__name__ in ("TransportError", "APIConnectionError") for name in type(error).__mro__)
    return transport or isinstance(error, ConnectionError | TimeoutError | ProviderError)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip() or '(no message)'}"
