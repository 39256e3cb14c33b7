"""Base classes of what an agent acts in: an environment, and its episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from .component import Component
from .data import Step


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
        caller's mistake; any other error ends the run.

        Args:
            name: the name of the tool.
            arguments: its arguments, whose names and types are those of its schema.
        """
        try:
            reply = getattr(self, name)(**arguments)
        except ValueError as error:
            return Step(f"Error: {error}", 0.0, done=False)
        return reply if isinstance(reply, Step) else Step(str(reply), 0.0, done=False)


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
    tools: tuple[Callable[..., Any], ...] = ()
    """The tools that a response may call: functions, or methods of the :class:`Env`, which must have a method of each
    name. Types of the parameters and docstring (``Args:``) become the schema that the model is shown."""
    concurrency: int = 128
    """The largest number of episodes that are made or stepped at the same time, each in a thread of its own. It is 1
    where episodes share what must not be used by two threads at once, or where they only compute, since Python computes
    in one thread at a time; they are then played in turn, in the run's own thread."""
    model_parameters: tuple[str, ...] = ()
    """The names of parameters that hold the path of a model, such as an opponent's. Where one of them is ``start``, a
    run puts the path of its start model there."""

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
