"""A connection is a running MCP server: its process, its tools, and calls of them from any thread."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from typing import Any, TypeVar

from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.types import CONNECTION_CLOSED, CallToolResult, Implementation
from mcp.types import Tool as ListedTool
from pydantic import ValidationError

from .....core.errors import EpisodeLostError, RequestError
from .program import Program

T = TypeVar("T")

_PATIENCE_S = 0.2
"""The seconds after which a thread that waits looks whether it is interrupted."""
_ANSWER_S = 10.0
"""The seconds that a server has to show that it still answers, after a call that took too long."""
_OVERDUE = 8
"""The number of calls, one after the other, that may take too long before a server counts as one that hangs."""
_END_S = 7.0
"""The seconds that a server may take to end; the package ends it by force after about 4."""
_KEPT = 2000
"""The characters of the standard error output that are kept, for messages."""


class TookTooLongError(Exception):
    """A call took too long; the server still answers."""


class Connection:
    """A connection to a running server. It has a thread with an event loop, in which the server is spoken to.

    Raises:
        RequestError: the program does not start, or does not list its tools.
    """

    def __init__(self, program: Program) -> None:
        words = [] if program.url else program.words
        environment = program.environment
        self.program = program
        self.process = os.getpid()
        """The id of the process that has started it; a fork must not use it."""
        self.tools: list[ListedTool] = []
        """The tools that it lists."""
        self.info: Implementation | None = None
        """What it says of itself."""
        self.alive = True
        """Whether it goes on, as far as is known."""
        self._client: Client | None = None
        self._errors: deque[str] = deque(maxlen=_KEPT)
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._junk = ""
        self._overdue = 0
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._stop = asyncio.Event()
        # a line that is no message is told of with a traceback, which says nothing to who trains
        logging.getLogger("mcp.client").setLevel(logging.CRITICAL)
        self.thread = threading.Thread(target=self._run, args=(words, environment), name="MCP server", daemon=True)
        self.thread.start()
        try:
            while not self._ready.wait(_PATIENCE_S):
                pass
        except BaseException:
            self.end()
            raise
        if self._failure is not None:
            self.thread.join(_END_S)
            raise self._unusable(self._failure) from self._failure

    @property
    def usable(self) -> bool:
        """Whether this process may ask it, as far as is known."""
        return self.alive and self.process == os.getpid()

    def call(self, name: str, arguments: Mapping[str, Any], seconds: float) -> CallToolResult:
        """Call a tool. If this thread is interrupted, the server is told that the call is cancelled.

        Raises:
            TookTooLongError: there is no result after this many seconds, and the server goes on.
            EpisodeLostError: the server has ended, or does not answer any more.
            MCPError: it refuses the call. RuntimeError: its result is not what it has promised.
        """
        if self.process != os.getpid():
            raise self._lost("belongs to another process")
        future = self._submit(self._call(name, arguments, seconds))
        try:
            # a lock that waits without end would keep an exception of another thread from being raised here
            while not wait([future], _PATIENCE_S).done:
                if not self.thread.is_alive():  # it has ended before it could begin the call
                    raise self._lost()
        except BaseException:
            future.cancel()
            with suppress(EpisodeLostError):
                self._submit(self._require_answer())
            raise
        try:
            return future.result()
        except CancelledError:  # the thread of the connection ends
            raise self._lost() from None

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Let the thread of the connection do some work. Raises EpisodeLostError if it has ended."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise self._lost() from None

    def end(self, wait_s: float = 0.0) -> None:
        """Let the server end, and wait for it at most this many seconds."""
        self.alive = False
        if self.process != os.getpid():
            return
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._stop.set)
        if wait_s:
            self.thread.join(wait_s)

    # --- in the thread of the connection ----------------------------------------------------------------------------

    def _run(self, words: list[str], environment: dict[str, str]) -> None:
        try:
            with self._runner:  # its end cancels the calls that still wait
                self._runner.run(self._serve(words, environment))
        except BaseException as error:  # it is raised in the thread that waits for the start
            self._failure = error
        finally:
            self.alive = False
            self._ready.set()

    async def _serve(self, words: list[str], environment: dict[str, str]) -> None:
        if not words:
            await self._speak(Client(self.program.url, cache=None))
            return
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self._loop.add_reader(reading, self._hear, reading)
        parameters = StdioServerParameters(
            command=words[0],
            args=words[1:],
            env=environment,
            cwd=self.program.directory,
            encoding_error_handler="replace",
        )
        try:
            with os.fdopen(writing, "w") as errors:
                client = Client(stdio_client(parameters, errors), cache=None, message_handler=self._take)
                await self._speak(client, errors.close)
        finally:
            self._hear(reading)
            self._loop.remove_reader(reading)
            os.close(reading)

    async def _speak(self, client: Client, started: Callable[[], None] = lambda: None) -> None:
        """Connect, list the tools, and let calls be made until the connection is to end, or is lost."""
        async with asyncio.timeout(self.program.start_timeout) as limit, client:
            started()
            await self._list(client)
            limit.reschedule(None)
            self._client = client
            self._ready.set()
            try:
                await self._stop.wait()
            finally:
                self._client = None

    async def _list(self, client: Client) -> None:
        self.info = client.server_info
        page = await client.list_tools()
        self.tools += page.tools
        while page.next_cursor:
            page = await client.list_tools(cursor=page.next_cursor)
            self.tools += page.tools

    async def _call(self, name: str, arguments: Mapping[str, Any], seconds: float) -> CallToolResult:
        if self._client is None:
            raise self._lost()
        try:
            async with asyncio.timeout(seconds):
                result = await self._client.call_tool(name, dict(arguments))
            self._overdue = 0
            return result
        except TimeoutError:
            self._overdue += 1
            await self._require_answer()
            raise TookTooLongError(f"the call took more than {seconds:g} s") from None
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                self._stop.set()
                raise self._lost() from error
            raise
        except ValidationError as error:
            raise RuntimeError("the server has given what is no result") from error

    async def _require_answer(self) -> None:
        """End the server if it does not answer any more. Raises EpisodeLostError then."""
        if self._client is None:
            raise self._lost()
        try:
            if self._overdue >= _OVERDUE:
                raise TimeoutError
            async with asyncio.timeout(_ANSWER_S):
                await self._client.list_tools()
        except (TimeoutError, MCPError) as error:
            self._stop.set()
            raise self._lost("does not answer any more") from error

    async def _quietly_check(self) -> None:
        with suppress(EpisodeLostError):
            await self._require_answer()

    async def _take(self, message: Any) -> None:
        """Keep the first line that is no message, for messages of errors."""
        if isinstance(message, ValidationError) and not self._junk:
            self._junk = str(message.errors()[0]["input"])[:200].strip()

    def _hear(self, reading: int) -> None:
        """Keep the last of what the server writes to its standard error output."""
        with suppress(BlockingIOError):
            while text := os.read(reading, 65536):
                self._errors.extend(text.decode(errors="replace"))
            self._loop.remove_reader(reading)
            if self._client is not None:  # it has ended, or says nothing more
                self._check = self._loop.create_task(self._quietly_check())

    # --- messages ---------------------------------------------------------------------------------------------------

    def _lost(self, what: str = "has ended") -> EpisodeLostError:
        self.alive = False
        last = "".join(self._errors).strip().rpartition("\n")[2]
        return EpisodeLostError(f"{self.program.where} {what}{f': {last}' if last else ''}", "", "mend the server")

    def _unusable(self, failure: BaseException) -> RequestError:
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        fix = "run the command by hand: it must speak the Model Context Protocol on its standard output"
        if self.program.url:
            fix = "start the server, or mend the address: it is that of the protocol, such as http://localhost:8000/mcp"
        if isinstance(failure, TimeoutError):
            what = f"does not list its tools in {self.program.start_timeout:g} s"
        elif isinstance(failure, MCPError) and failure.code == CONNECTION_CLOSED:
            what = "ends before it lists its tools"
        else:
            what = f"cannot be used: {type(failure).__name__}: {str(failure)[:_KEPT]}"
        if self._junk:
            what += f"; its standard output holds what is no message of the protocol: {self._junk!r}"
        if text := "".join(self._errors).strip():
            what += f"; it says:\n{text}"
        return RequestError(f"{self.program.where} {what}", "", fix)
