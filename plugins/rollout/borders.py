"""Wrappers check what environments, tools and verifiers return, since a wrong reward would train unnoticed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from numbers import Real
from reprlib import Repr
from typing import Any

import attrs

from ...core.components import Env, Environment, Step, Tool, Toolset, ToolsetSession, Verifier
from ...core.components.dialogue import action_key
from ...core.components.environment import reply_of
from ...core.compose.blame import blaming, confined, require_session, told, wrong
from ...core.compose.inner import checked_inner
from ...core.compose.named import Named
from ...core.compose.reward_names import unusable, weights_of
from ...core.errors import EpisodeLostError
from .awaiting import settled
from .named_rewards import weighed
from .tool_failures import Failures, lost_connection

FIRST_PROMPTS = 256
"""The number of groups whose first observation is remembered, more than are made at the same time."""


class CheckedEnvironment(Environment):
    """An environment that is checked: texts are texts, rewards are finite, a group has one first prompt.

    Given ``weights``, the reward of a step is the weighted sum of those that it names; an environment inside of another
    one is given none.

    Raises:
        RunError: the environment raised an error or broke its contract; the message names it.
    """

    def __init__(self, named: Named, component: Any = None, weights: Mapping[str, float] | None = None) -> None:
        self.named = named
        self.component = checked_inner(named, named.component if component is None else component, CHECKED)
        self.weights = None if weights is None else weights_of(self.component, weights)
        self._first: dict[int, str] = {}
        self.failures = Failures(named)

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        return _concurrency(self.named, self.component)

    @property
    def tasks(self) -> int | None:  # type: ignore[override]
        return self.component.tasks

    @property
    def digest(self) -> str | None:
        return self.component.digest

    @property
    def instruction(self) -> str:  # type: ignore[override]
        with confined(self.named, "instruction"):
            return _text(self.named, "instruction", self.component.instruction)

    @property
    def actions(self) -> tuple[str, ...] | None:  # type: ignore[override]
        with confined(self.named, "actions"):
            actions = self.component.actions
        if actions is None:
            return None
        if isinstance(actions, str) or not isinstance(actions, Sequence):
            raise wrong(self.named, "actions", f"must be a tuple of names, or None for free text, not {actions!r}")
        return _names(self.named, tuple(_text(self.named, "actions", action) for action in actions))

    @property
    def reward_names(self) -> tuple[str, ...]:  # type: ignore[override]
        with confined(self.named, "reward_names"):
            names = self.component.reward_names
        if reason := unusable(names):
            raise wrong(self.named, "reward_names", reason)
        return names

    @property
    def tools(self) -> tuple[Callable[..., Any] | Tool, ...]:  # type: ignore[override]
        return _tools(self.named, self.component)

    def make(self, seed: int, member: int = 0) -> CheckedEnv:
        with confined(self.named, f"make({seed}, {member})"), _connected(self.named, "make"):
            env = settled(self.component.make, seed, member)
            require_session(self.named, "make", env, Env)
        try:
            return CheckedEnv(self, env, self._opened(env, seed, member))
        except BaseException:
            with suppress(Exception):  # what has happened is told, not what follows from it
                settled(env.close)
            raise

    def _opened(self, env: Env, seed: int, member: int) -> str:
        """Return the first observation of an episode."""
        with confined(self.named, f"make({seed}, {member})"), _connected(self.named, "make"):
            observation = _text(self.named, "initial_observation", settled(env.initial_observation))
            system = _text(self.named, "system_text", env.system_text)
            earlier = _pairs(self.named, env.earlier_turns)
        shown = repr((system, earlier, observation))
        if self._first.setdefault(seed, shown) != shown:
            what = f"differs between the members of group {seed}, which must see the same first prompt"
            raise wrong(self.named, "initial_observation", what)
        while len(self._first) > FIRST_PROMPTS:
            self._first.pop(next(iter(self._first)), None)
        return observation


class CheckedEnv(Env):
    """An episode of a :class:`CheckedEnvironment`."""

    def __init__(self, world: CheckedEnvironment, env: Any, observation: str) -> None:
        self.named, self.env, self._observation = world.named, env, observation
        self._reward_names, self._weights = world.reward_names, world.weights
        self._failures = world.failures
        self.place = env.place
        self.system_text, self.earlier_turns = env.system_text, env.earlier_turns

    def initial_observation(self) -> str:
        return self._observation

    def step(self, action: str) -> Step:
        with confined(self.named, f"step({_shown(action)})"), _connected(self.named, "step"):
            step = settled(self.env.step, action)
        return self._checked("step", step)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Step:
        called = f"call({name!r})"
        with confined(self.named, called), _connected(self.named, "call"), self._failures.counted(name):
            step = settled(self.env.call, name, arguments)
        return self._checked("call", step)

    def close(self) -> None:
        with confined(self.named, "close"):
            settled(self.env.close)

    def _checked(self, method: str, step: Any) -> Step:
        if not isinstance(step, Step):
            raise wrong(self.named, method, f"gave {type(step).__name__}, not a Step")
        _text(self.named, method, step.observation)
        checked = attrs.evolve(
            step,
            reward=_number(self.named, method, "reward", step.reward),
            done=_truth(self.named, method, "done", step.done),
            success=_truth(self.named, method, "success", step.success),
            metrics=_numbers(self.named, method, "metrics", step.metrics),
            rewards=_numbers(self.named, method, "rewards", step.rewards),
        )
        try:
            return weighed(checked, self._reward_names, self._weights)
        except ValueError as error:
            raise wrong(self.named, method, str(error)) from None


class CheckedToolset(Toolset):
    """A tool set that is checked: it offers functions or schemas, and makes sessions that are checked, too."""

    def __init__(self, named: Named) -> None:
        self.named, self.component = named, checked_inner(named, named.component, CHECKED)
        self.concurrency, self.failures = _concurrency(named, self.component), Failures(named)

    @property
    def tools(self) -> tuple[Callable[..., Any] | Tool, ...]:
        return _tools(self.named, self.component)

    @property
    def digest(self) -> str | None:
        return self.component.digest

    def start(self, seed: int, member: int) -> CheckedToolsetSession:
        with confined(self.named, "start"), _connected(self.named, "start"):
            session = settled(self.component.start, seed, member)
        require_session(self.named, "start", session, ToolsetSession)
        return CheckedToolsetSession(self, session)


class CheckedToolsetSession(ToolsetSession):
    """A session of a :class:`CheckedToolset`."""

    def __init__(self, toolset: CheckedToolset, session: ToolsetSession) -> None:
        self.toolset, self.session = toolset, session

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        named, failures = self.toolset.named, self.toolset.failures
        with confined(named, f"call({name!r})"), _connected(named, "call"), failures.counted(name):
            reply = settled(reply_of, self.session.call, name, arguments)
        if reply != Step(reply.observation):
            raise wrong(named, f"call({name!r})", "gave a Step with more than a text, as only an environment may")
        return reply

    def close(self) -> None:
        with confined(self.toolset.named, "close"):
            settled(self.session.close)


class CheckedVerifier(Verifier):
    """A verifier that is checked: it gives true, false, a score from 0 to 1, or ``None``.

    Raises:
        RunError: the verifier raised an error or broke its contract; the message names it.
    """

    def __init__(self, named: Named) -> None:
        self.named, self.component = named, checked_inner(named, named.component, CHECKED)
        self.concurrency = self.component.concurrency

    @property
    def instruction(self) -> str:  # type: ignore[override]
        with blaming(self.named, "instruction"):
            return _text(self.named, "instruction", self.component.instruction)

    def verify(self, answer: str, golds: Sequence[str]) -> float | None:
        return self._score("verify", "verify", answer, golds)

    def grade(self, question: str, answer: str, golds: Sequence[str]) -> float | None:
        own = type(self.component).grade is not Verifier.grade
        return self._score("grade", "grade" if own else "verify", question, answer, golds)

    def _score(self, called: str, method: str, *arguments: Any) -> float | None:
        with confined(self.named, method):
            score = getattr(self.component, called)(*arguments)
        if score is None:
            return None
        number = _number(self.named, method, "a score", score)
        if not 0 <= number <= 1:
            raise wrong(self.named, method, f"gave {score!r}, which is no score from 0 to 1")
        return number

    def objection(self, question: str, golds: Sequence[str]) -> str:
        with blaming(self.named, "objection"):
            return _text(self.named, "objection", self.component.objection(question, golds))


CHECKED: dict[str, Callable[[Named], Any]] = {
    "environment": CheckedEnvironment,
    "toolset": CheckedToolset,
    "verifier": CheckedVerifier,
}
"""Kind -> the wrapper of its components where they are parts of others."""


def name_of(component: Any) -> str:
    """Return the name of a component, checked or not, for a message."""
    named = getattr(component, "named", None)
    return named.name if isinstance(named, Named) else type(component).__name__


@contextmanager
def _connected(named: Named, method: str) -> Iterator[None]:
    """Tell a connection that fails from a fault of the environment.

    Raises:
        EpisodeLostError: the environment raised what Python raises for a server that is down or does not answer, or
            an OSError of a library that such an exception has led to.
    """
    try:
        yield
    except OSError as error:
        if not lost_connection(error):
            raise
        raise EpisodeLostError(
            f"{named.described} has lost its connection in {method}: {told(error)}", fix="bring its server back"
        ) from error


def _shown(value: Any) -> str:
    """Return the beginning and the end of what ``value`` looks like."""
    short = Repr()
    short.maxstring = short.maxother = 200
    return short.repr(value)


def _text(named: Named, method: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(named, method, f"gave {type(value).__name__} {_shown(value)}, not a text")
    return value


def _concurrency(named: Named, component: Any) -> int:
    """Return how many episodes may work at the same time, or refuse what is no such number."""
    with confined(named, "concurrency"):
        concurrency = component.concurrency
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise wrong(named, "concurrency", f"is {concurrency!r}, which is no number of episodes from 1")
    return concurrency


def _tools(named: Named, component: Any) -> tuple[Callable[..., Any] | Tool, ...]:
    """Return the tools that a component offers, or refuse what is none."""
    with confined(named, "tools"):
        tools = component.tools
    if not isinstance(tools, tuple) or not all(callable(tool) or isinstance(tool, Tool) for tool in tools):
        raise wrong(named, "tools", f"must be a tuple of functions, not {tools!r}")
    return tools


def _pairs(named: Named, turns: Any) -> tuple[tuple[str, str], ...]:
    """Return pairs of texts, or refuse what is none."""
    if isinstance(turns, tuple) and all(isinstance(turn, tuple) and len(turn) == 2 for turn in turns):
        for turn in turns:
            for text in turn:
                _text(named, "earlier_turns", text)
        return turns
    raise wrong(named, "earlier_turns", f"gave {turns!r}, which is not a tuple of pairs of texts")


def _number(named: Named, method: str, name: str, value: Any) -> float:
    """Return a finite number as a Python float; it may be one of numpy."""
    if not isinstance(value, Real):
        what = f"gave {name} = {value!r}, which is of the type {type(value).__name__} and not a number"
        raise wrong(named, method, what)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise wrong(named, method, f"gave {name} = {value!r}, which is not a finite number")
    return number


def _numbers(named: Named, method: str, what: str, values: Any) -> dict[str, float]:
    """Return a mapping of names to finite numbers."""
    if not isinstance(values, Mapping):
        raise wrong(named, method, f"gave {what} = {values!r}, which is not a mapping")
    return {_text(named, method, name): _number(named, method, name, values[name]) for name in values}


def _truth(named: Named, method: str, name: str, value: Any) -> bool:
    """Return a truth value as a Python bool; it may be numpy's, or 1 or 0.

    Anything else is refused, since any text, even ``"no"``, would count as true.
    """
    kind = type(value).__name__
    if isinstance(value, bool) or (isinstance(value, Real) and value in (0, 1)) or kind in ("bool", "bool_"):
        return bool(value)
    raise wrong(named, method, f"gave {name} = {value!r}, which is neither true nor false")


def _names(named: Named, actions: tuple[str, ...]) -> tuple[str, ...]:
    """Check that there are action names and that no two are alike; the dialogue checks that answers can name them."""
    if not actions:
        raise wrong(named, "actions", "is empty: give the names of actions, or None for free text")
    if blank := [action for action in actions if not action_key(action)]:
        raise wrong(named, "actions", f"holds {blank[0]!r}, which no answer can name")
    if len({action_key(action) for action in actions}) < len(actions):
        raise wrong(named, "actions", f"holds names that differ in case and white space alone: {', '.join(actions)}")
    return actions
