"""Wrappers check what environments, verifiers and engines return, since a wrong reward would train unnoticed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from reprlib import Repr
from typing import Any

import attrs
from torch import Tensor

from ...core.components import Completion, Env, Environment, RolloutEngineSession, Sampling, Step, Tool, Verifier
from ...core.components.dialogue import action_key
from ...core.compose.blame import blaming, confined, require_session, told, wrong
from ...core.compose.inner import checked_inner
from ...core.compose.named import Named
from ...core.compose.reward_names import unusable, weights_of
from ...core.errors import EpisodeLostError
from .awaiting import settled
from .named_rewards import weighed

ROUNDING = 1e-3
"""The largest log-prob in nats that still counts as 0, since bfloat16 logits are rounded."""
FIRST_PROMPTS = 256
"""The number of groups whose first observation is remembered, more than are made at the same time."""
STOP_REASONS = ("eos", "stop", "length")
"""The reasons why a completion may end."""


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

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        with confined(self.named, "concurrency"):
            concurrency = self.component.concurrency
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise wrong(self.named, "concurrency", f"is {concurrency!r}, which is no number of episodes from 1")
        return concurrency

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
        with confined(self.named, "tools"):
            tools = self.component.tools
        if not isinstance(tools, tuple) or not all(callable(tool) or isinstance(tool, Tool) for tool in tools):
            raise wrong(self.named, "tools", f"must be a tuple of functions, not {tools!r}")
        return tools

    def make(self, seed: int, member: int = 0) -> CheckedEnv:
        with confined(self.named, f"make({seed}, {member})"), _connected(self.named, "make"):
            env = settled(self.component.make, seed, member)
            require_session(self.named, "make", env, Env)
            observation = _text(self.named, "initial_observation", settled(env.initial_observation))
            system = _text(self.named, "system_text", env.system_text)
            earlier = _pairs(self.named, env.earlier_turns)
        shown = repr((system, earlier, observation))
        if self._first.setdefault(seed, shown) != shown:
            what = f"differs between the members of group {seed}, which must see the same first prompt"
            raise wrong(self.named, "initial_observation", what)
        while len(self._first) > FIRST_PROMPTS:
            self._first.pop(next(iter(self._first)), None)
        return CheckedEnv(self, env, observation)


class CheckedEnv(Env):
    """An episode of a :class:`CheckedEnvironment`."""

    def __init__(self, world: CheckedEnvironment, env: Any, observation: str) -> None:
        self.named, self.env, self._observation = world.named, env, observation
        self._reward_names, self._weights = world.reward_names, world.weights
        self.place = env.place
        self.system_text, self.earlier_turns = env.system_text, env.earlier_turns

    def initial_observation(self) -> str:
        return self._observation

    def step(self, action: str) -> Step:
        with confined(self.named, f"step({_shown(action)})"), _connected(self.named, "step"):
            step = settled(self.env.step, action)
        return self._checked("step", step)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Step:
        with confined(self.named, f"call({name!r})"), _connected(self.named, "call"):
            step = settled(self.env.call, name, arguments)
        return self._checked("call", step)

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


CHECKED: dict[str, Callable[[Named], Any]] = {"environment": CheckedEnvironment, "verifier": CheckedVerifier}
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
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ConnectionError | TimeoutError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
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


class CheckedEngine(RolloutEngineSession):
    """An engine in a run that is checked: one completion per prompt, a log-prob per token, none too long.

    Raises:
        RunError: the engine raised an error or broke its contract; the message names it.
    """

    def __init__(self, named: Named, session: Any) -> None:
        require_session(named, "start", session, RolloutEngineSession)
        self.named, self.session = named, session
        self.single_requests, self.adapter = session.single_requests, session.adapter
        self._asked: dict[Any, Sampling] = {}

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        with blaming(self.named, "generate"):
            completions = self.session.generate(prompts, sampling, seed)
        if len(completions) != len(prompts):
            raise wrong(self.named, "generate", f"gave {len(completions)} completions for {len(prompts)} prompts")
        for completion in completions:
            self._check("generate", completion, sampling)
        return completions

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.session.sync(weights)

    def sleep(self) -> bool:
        return self.session.sleep()

    def close(self) -> None:
        self.session.close()

    def submit(self, key: Any, prompt: Sequence[int], sampling: Sampling, seed: int) -> None:
        self._asked[key] = sampling
        with blaming(self.named, "submit"):
            self.session.submit(key, prompt, sampling, seed)

    def finished(self) -> list[tuple[Any, Completion]]:
        return self._done("finished", self.session.finished)

    def poll(self) -> list[tuple[Any, Completion]]:
        return self._done("poll", self.session.poll)

    def _done(self, method: str, wait: Callable[[], list[tuple[Any, Completion]]]) -> list[tuple[Any, Completion]]:
        with blaming(self.named, method):
            done = wait()
        for key, completion in done:
            self._check(method, completion, self._asked.pop(key))
        return done

    def _check(self, method: str, completion: Completion, sampling: Sampling) -> None:
        tokens = completion.tokens
        logprobs = completion.logprobs
        if not 1 <= len(tokens) <= sampling.max_tokens:
            what = f"gave {len(tokens)} tokens, where 1 to {sampling.max_tokens} were asked for"
            raise wrong(self.named, method, what)
        if len(logprobs) != len(tokens):
            raise wrong(self.named, method, f"gave {len(logprobs)} log-probs for {len(tokens)} tokens")
        if completion.stop_reason not in STOP_REASONS:
            what = f"gave the stop reason {completion.stop_reason!r}; there are {', '.join(STOP_REASONS)}"
            raise wrong(self.named, method, what)
        if bad := [value for value in logprobs if not -math.inf < value <= ROUNDING]:
            raise wrong(self.named, method, f"gave the log-prob {bad[0]}, which is no log-prob of a sampled token")
