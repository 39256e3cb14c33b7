"""The tool set ``mcp`` offers the tools of a server of the Model Context Protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs.validators import ge, gt
from mcp import MCPError

from .....core.components import Tool, Toolset, ToolsetSession
from .connection import Connection
from .listing import Listing, refuse_unusable
from .program import Program
from .results import text_of
from .servers import connected, listing


@attrs.frozen
class Mcp(Toolset):
    """Call the tools of an MCP server: a program that is started here and spoken to through pipes, or one at a ``url``.

    The server is started when its tools are first asked for, once for each process of a run, and ends with it. All
    episodes share it; with ``per_episode`` each one has a server (at a ``url``, a connection) of its own. A server
    that has ended is started again for the next episode, and must have the same tools.

    Of a result the model reads the texts; images and other data are named with their size. What the server says of a
    call that failed, and a call that takes longer than ``timeout``, is told as an error. Where the server ends in a
    call, or answers nothing after one that took too long, the episode is lost, and its group dropped.

    Characters in a tool's name other than letters, digits and ``_`` become ``_``.

    Source: Model Context Protocol (modelcontextprotocol.io), through its Python package.
    """

    command: str = ""
    """Program that is started: a name, looked for in ``PATH``, or a path."""
    args: tuple[str, ...] = ()
    """Its arguments."""
    env: Mapping[str, str] = attrs.field(factory=dict)
    """Environment variables that the server gets, beside ``HOME``, ``LOGNAME``, ``PATH``, ``SHELL``, ``TERM`` and
    ``USER``. They stand in the configuration of the run."""
    inherit: tuple[str, ...] = ()
    """Names of further variables that it gets from the run's own environment, such as keys, which stand nowhere."""
    directory: str | None = None
    """Folder in which it runs; ``None`` for that in which the run is started."""
    url: str = ""
    """Address of a server that runs already (streamable HTTP, without login), in place of ``command``."""
    only: tuple[str, ...] = ()
    """Names of the tools to offer; all, if there are none."""
    per_episode: bool = False
    """Whether each episode has a server of its own, since calls change its state."""
    timeout: float = attrs.field(default=30.0, validator=gt(0))
    """Seconds that a call may take."""
    start_timeout: float = attrs.field(default=60.0, validator=gt(0))
    """Seconds that the server may take to start and to list its tools."""
    concurrency: int = attrs.field(default=16, validator=ge(1))
    """Largest number of calls at the same time."""

    def __attrs_post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise ValueError("give either a command or the url of a server that runs already")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"the url begins with http:// or https://, not {self.url!r}")
        if self.command:
            _ = self.program.words  # without starting it

    @property
    def starts_programs(self) -> bool:  # type: ignore[override]
        """Whether there is a command."""
        return bool(self.command)

    @property
    def program(self) -> Program:
        """The program of the server."""
        return Program(
            self.command,
            tuple(self.args),
            tuple(sorted(self.env.items())),
            tuple(self.inherit),
            self.directory,
            self.url,
            not self.per_episode,
            self.start_timeout,
        )

    @property
    def listing(self) -> Listing:
        """What the server says of itself and of the tools to offer. Raises RequestError if it cannot be used."""
        program = self.program
        listed = listing(program).only(self.only, program.where)
        refuse_unusable(listed.tools, program.where)
        return listed

    @property
    def tools(self) -> tuple[Tool, ...]:
        """Tools of the server."""
        return self.listing.tools

    @property
    def digest(self) -> str:
        """Name and version of the server, and a hash of its tools."""
        return self.listing.digest

    def start(self, seed: int, member: int) -> McpSession:
        """Begin an episode: start the server if it does not run, or one for this episode."""
        return McpSession(self, self.listing.names, connected(self.program))


@attrs.define
class McpSession(ToolsetSession):
    """An episode's calls of the tools of a server."""

    toolset: Mcp
    """Tool set."""
    names: Mapping[str, str]
    """Name that the model knows -> name that the server knows."""
    connection: Connection
    """Server that was running when the episode began."""

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool.

        Raises:
            ValueError: the server refuses the call, or says that it has failed.
            TookTooLongError: there is no result in time.
            RuntimeError: it is not one that the server has promised.
            EpisodeLostError: the server has ended, or does not answer any more.
        """
        try:
            result = self._running.call(self.names[name], arguments, self.toolset.timeout)
        except MCPError as error:
            raise ValueError(error.message) from error
        text = text_of(result)
        if result.is_error:
            raise ValueError(text.removeprefix("Error: ") or "the call has failed")
        return text

    @property
    def _running(self) -> Connection:
        """The server, or, where it has ended after another episode's call, the one that all now share."""
        if self.connection.usable or self.toolset.per_episode:
            return self.connection
        self.connection = connected(self.toolset.program)
        return self.connection

    def close(self) -> None:
        """End the server if it is the episode's own."""
        if self.toolset.per_episode:
            self.connection.end()
