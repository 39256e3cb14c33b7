"""Base classes of what an agent acts in: an environment, and its episodes."""

from __future__ import annotations

import inspect
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from .component import Component
from .data import Step
from .tools import Tool, text_of


class Env(ABC):
    """One episode of an environment. It is played once and has no reset. Observations and actions are text."""

    __slots__ = ()

    place: str = ""
    """The name of the task in error messages; empty where the number of the task is enough."""
    system_text: str = ""
    """A text of this task for the system message, before the instruction; the same for all members of a group."""
    earlier_turns: tuple[tuple[str, str], ...] = ()
    """Texts of a user, each with the answer to it, which stand before the first observation, as messages of a chat."""

    @abstractmethod
    def initial_observation(self) -> str:
        """Return the text that the first turn shows. It may be an ``async def``."""

    @abstractmethod
    def step(self, action: str) -> Step:
        """Play one action and return the environment's reply. It may be an ``async def``.

        Raises:
            EpisodeLostError: the episode cannot go on, and is no fault of the program: its group is dropped.
            ValueError: ``Environment.actions`` does not list the action. Free text never raises.
        """

    def call(self, name: str, arguments: Mapping[str, Any]) -> Step:
        """Call a tool of ``Environment.tools`` and return the environment's reply.

        By default this calls the episode's method of that name. What it returns is the reply: a :class:`Step`, or the
        observation, with no reward. A ValueError that it raises is told to the model, since what a tool refuses is the
        caller's mistake. So is any other error, as a call that failed (``share_of_calls_failed``), but a tool that
        fails again and again ends the run.

        Args:
            name: the name of the tool.
            arguments: its arguments, whose names and types are those of its schema.
        """
        reply: Step = reply_of(getattr(self, name), **arguments)
        return reply

    def close(self) -> Awaitable[None] | None:  # noqa: B027 - most episodes hold nothing
        """Release what the episode holds: processes, files, connections. It is called once, after the last step.

        It is called as well where the episode is lost or the run fails. It may be an ``async def``.
        """

    def demonstrate(self, most: int, noise: float, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        """Return what a demonstrator thinks and does next: a thought, and 1 to ``most`` actions.

        It is asked only in episodes of ``Environment.demonstrated``, and only before the end. It plays nothing.

        Args:
            most: the largest number of actions.
            noise: the share of actions that are mistakes, from 0 to 1; what a mistake is, the environment decides.
            rng: the only source of chance.

        Returns:
            The thought, and actions as ``step`` takes them. A call of a tool is the text of ``Call.text``.
        """
        raise NotImplementedError(f"{type(self).__name__} demonstrates nothing")


def reply_of(tool: Callable[..., Any], *given: Any, **arguments: Any) -> Any:
    """Call a tool and return its reply as a :class:`Step`, or as an awaitable of one where the tool is ``async``.

    A ValueError is told as ``Error: ...``; anything else that the tool raises goes through.
    """
    try:
        reply = tool(*given, **arguments)
    except ValueError as error:
        return _refused(error)
    return _later(reply) if inspect.isawaitable(reply) else _step(reply)


async def _later(reply: Awaitable[Any]) -> Step:
    try:
        return _step(await reply)
    except ValueError as error:
        return _refused(error)


def _step(reply: Any) -> Step:
    return reply if isinstance(reply, Step) else Step(text_of(reply), 0.0, done=False)


def _refused(error: ValueError) -> Step:
    return Step(text_of(f"Error: {error}"), 0.0, done=False)


class Environment(Component):
    """An environment makes episodes. It must be picklable. Kind ``environment``."""

    __slots__ = ()

    instruction: str
    """The description of the task for the system message, with the meaning of symbols where it uses some."""
    actions: tuple[str, ...] | None
    """The names of the actions, matched without regard to case; ``None`` for free text."""
    tasks: int | None = None
    """The number of distinct tasks: seeds are taken modulo it. ``None`` where every seed makes a new task."""
    least_reward: float | None = None
    """The smallest sum of rewards of an episode, without format penalties; ``None`` where it is not known. Named
    rewards are summed with their weights, so that it is not known there."""
    reward_names: tuple[str, ...] = ()
    """The names of the rewards that ``Step.rewards`` gives; empty where ``Step.reward`` is the only one."""
    reward_weights: Mapping[str, float] = MappingProxyType({})
    """The weights of rewards that are not 1, unless ``reward.weights`` has others."""
    tools: tuple[Callable[..., Any] | Tool, ...] = ()
    """The tools that a response may call: functions, or methods of the :class:`Env`, which must have a method of each
    name. Types of the parameters and docstring (``Args:``) become the schema that the model is shown; a :class:`Tool`
    brings its schema."""
    concurrency: int = 128
    """The largest number of episodes that are made or stepped at the same time, each in a thread of its own. It is 1
    where episodes share what must not be used by two threads at once, or where they only compute, since Python computes
    in one thread at a time; they are then played in turn, in the run's own thread."""
    model_parameters: tuple[str, ...] = ()
    """The names of parameters that hold the path of a model, such as an opponent's. Where one of them is ``start``, a
    run puts the path of its start model there."""

    demonstrated: Environment | None = None
    """The environment whose episodes can say how they are played well (``Env.demonstrate``), to clone a small model
    from: often the environment itself, or one with more starts of the same split. ``None`` where nobody knows."""

    @abstractmethod
    def make(self, seed: int, member: int = 0) -> Env:
        """Return a new episode of the task that ``seed`` names. It may be an ``async def``.

        All members of a group have the same ``seed``, and must see the same first prompt. ``member``, the number of the
        episode in its group, seeds whatever is random afterwards.
        """

    @property
    def digest(self) -> str | None:
        """A hash of data that the parameters do not determine, such as a file's content; ``None`` without such data."""
        return None
