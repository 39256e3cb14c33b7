"""The contract of tool sets: tools that any environment can offer, beside its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from .component import Component
from .tools import Tool


class ToolsetSession(ABC):  # noqa: B024 - a session whose tools are its own methods has nothing more to say
    """The tools of one episode, with their state.

    Sessions of several episodes are used at the same time, each by one thread at a time.
    """

    __slots__ = ()

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Call a tool and return what it gives: text, or anything that ``str`` makes a text of. It may be ``async``.

        By default this calls the session's method of that name.

        Args:
            name: the name of the tool.
            arguments: its arguments, whose names and types are those of its schema.

        Raises:
            ValueError: what the caller did wrong; the text is told to the model.
            EpisodeLostError: the tools are gone by no fault of the caller, such as a server that died: the group of
                the episode is dropped.
        """
        return getattr(self, name)(**arguments)

    def close(self) -> None:  # noqa: B027 - most sessions hold nothing
        """Release what the session holds: processes, files, connections. It is called once, after the episode."""


class Toolset(Component):
    """A tool set offers tools to the episodes of any environment. It must be picklable. Kind ``toolset``."""

    __slots__ = ()

    concurrency: int = 1
    """The largest number of calls that are played at the same time, each in a thread of its own: 1 for tools that only
    compute, more for those that wait for a process or a server."""

    @property
    @abstractmethod
    def tools(self) -> tuple[Callable[..., Any] | Tool, ...]:
        """The tools: functions, methods of the session's class, or :class:`Tool` with a schema that is known already.

        They are asked for before anything is played, and must stay the same. A class attribute will do.
        """

    def start(self, seed: int, member: int) -> ToolsetSession:
        """Begin an episode. By default its session calls the functions of ``tools``.

        Args:
            seed: the seed of the group, which is that of its environment.
            member: the number of the episode in its group.

        Raises:
            EpisodeLostError: the tools cannot be had, by no fault of the program.
        """
        return Functions(self.tools)

    @property
    def digest(self) -> str | None:
        """A hash of data that the parameters do not determine, such as a file's content; ``None`` without such data."""
        return None


class Functions(ToolsetSession):
    """A session of functions without state."""

    __slots__ = ("functions",)

    def __init__(self, tools: tuple[Callable[..., Any] | Tool, ...]) -> None:
        self.functions = {tool.__name__: tool for tool in tools if not isinstance(tool, Tool)}

    def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        return self.functions[name](**arguments)
