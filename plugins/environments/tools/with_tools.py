"""The environment ``with_tools`` is any other one, in which tool sets can be called as well."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import attrs
from attrs.validators import ge

from ....core.components import Env, Environment, Step, Tool, Toolset, ToolsetSession
from ....core.components.environment import reply_of
from ....core.compose.fields import component, components
from ....core.compose.named import Named


@attrs.frozen
class WithTools(Environment):
    """Solve the tasks of another environment with the help of tools.

    A response either calls a tool, whose result is the next observation, with no reward; or it is an action or an
    answer of the environment ``of``, as without tools. Each call counts as an action in ``rollout.max_actions``. The
    dialogue must be one that calls tools: ``tool_calls``.

    ``uncollapse list toolset`` lists the tool sets that there are, and any plugin can register more.
    """

    of: Any = component("environment")  # noqa: RUF009 - makes an attrs field
    """Environment that has the tasks."""
    toolsets: Any = components("toolset", alias="tools")  # noqa: RUF009 - makes an attrs field
    """Tool sets: ``[calculator, python]``. Tools that ``of`` offers itself can still be called."""
    longest_result: int = attrs.field(default=4000, validator=ge(100))
    """Largest length of a tool's result in characters. Of a longer one the beginning and the end are shown."""

    def __attrs_post_init__(self) -> None:
        if not self.toolsets:
            raise ValueError("tools is empty: name tool sets, such as tools=[calculator]")

    @property
    def instruction(self) -> str:  # type: ignore[override]
        instruction: str = self._inner.instruction
        return instruction

    @property
    def actions(self) -> tuple[str, ...] | None:  # type: ignore[override]
        return self._inner.actions

    @property
    def tasks(self) -> int | None:  # type: ignore[override]
        return self._inner.tasks

    @property
    def least_reward(self) -> float | None:  # type: ignore[override]
        return self._inner.least_reward

    @property
    def reward_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._inner.reward_names

    @property
    def reward_weights(self) -> Mapping[str, float]:  # type: ignore[override]
        return self._inner.reward_weights

    @property
    def tools(self) -> tuple[Callable[..., Any] | Tool, ...]:  # type: ignore[override]
        """Tools of the environment, then those of each tool set."""
        return sum((named.component.tools for named in self.toolsets), self._inner.tools)

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        """Largest of all parts; those with a smaller one wait for each other."""
        return max(int(named.component.concurrency) for named in (self.of, *self.toolsets))

    @property
    def digest(self) -> str | None:
        """Hashes of the environment's data and of the tools'."""
        digests = [named.component.digest for named in (self.of, *self.toolsets)]
        return None if not any(digests) else " ".join(map(str, digests))

    @property
    def _inner(self) -> Environment:
        environment: Environment = self.of.component
        return environment

    def make(self, seed: int, member: int = 0) -> WithToolsEnv:
        """Make an episode of the environment, and begin one of each tool set."""
        with _room(self.of):
            env = WithToolsEnv(self.of, self._inner.make(seed, member), self.longest_result)
        try:
            for named in self.toolsets:
                toolset: Toolset = named.component
                session = toolset.start(seed, member)
                env.sessions.append(session)
                env.owners |= {_name(tool): (named, session) for tool in toolset.tools}
        except BaseException:
            with suppress(Exception):  # what has happened is told, not what follows from it
                env.close()
            raise
        return env


@attrs.define
class WithToolsEnv(Env):
    """An episode of :class:`WithTools`."""

    of: Named
    """The environment."""
    env: Env
    """Its episode."""
    longest_result: int
    """The largest length of a result in characters."""
    sessions: list[ToolsetSession] = attrs.field(factory=list)
    """What the tool sets began."""
    owners: dict[str, tuple[Named, ToolsetSession]] = attrs.field(factory=dict)
    """Name of a tool -> its tool set, and what that began."""

    @property
    def place(self) -> str:  # type: ignore[override]
        """Place of the task, as the environment names it."""
        return self.env.place

    @property
    def system_text(self) -> str:  # type: ignore[override]
        """The environment's."""
        return self.env.system_text

    @property
    def earlier_turns(self) -> tuple[tuple[str, str], ...]:  # type: ignore[override]
        """The environment's."""
        return self.env.earlier_turns

    def initial_observation(self) -> str:
        with _room(self.of):
            return self.env.initial_observation()

    def step(self, action: str) -> Step:
        with _room(self.of):
            return self.env.step(action)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Step:
        """Call a tool. A result that is too long loses its middle."""
        if name not in self.owners:
            with _room(self.of):
                return self.env.call(name, arguments)
        named, session = self.owners[name]
        with _room(named):
            step: Step = reply_of(session.call, name, arguments)
        return attrs.evolve(step, observation=shortened(step.observation, self.longest_result))

    def close(self) -> None:
        """Close the tools, last begun first, and the episode: all of them, even if one cannot be closed."""
        while self.sessions:
            try:
                self.sessions.pop().close()
            except BaseException:
                with suppress(Exception):
                    self.close()
                raise
        with _room(self.of):
            self.env.close()


def shortened(text: str, longest: int) -> str:
    """Return a text with its beginning and its end, if it has more than ``longest`` characters."""
    if len(text) <= longest:
        return text
    end = longest // 4
    left_out = len(text) - longest
    return f"{text[: longest - end]}\n... ({left_out} characters are left out) ...\n{text[len(text) - end :]}"


@cache
def _room(named: Named) -> threading.BoundedSemaphore:
    """Return what lets no more threads at a component than its ``concurrency``: other parts may want more."""
    return threading.BoundedSemaphore(named.component.concurrency)


def _name(tool: Callable[..., Any] | Tool) -> str:
    return tool.name if isinstance(tool, Tool) else tool.__name__
