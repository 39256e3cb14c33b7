"""Servers of OpenEnv are asked through the package's own client; what goes wrong there is told apart."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import weakref
from collections.abc import Awaitable, Callable, Mapping
from numbers import Real
from typing import Any, TypeVar
from urllib.parse import urlsplit

import attrs

from .....core.errors import EpisodeLostError

CAPACITY, INVALID, FAILED = "CAPACITY_REACHED", "VALIDATION_ERROR", "EXECUTION_ERROR"
"""Codes of the server's errors: no room for a session, an action that is none, an exception in the environment."""
_CONNECT_S = 10.0
"""Largest number of seconds in which a connection is opened, or closed."""
_ERROR = re.compile(r"Server error: (.*) \(code: (\w+)\)", re.DOTALL)
_UP = "bring the server back, or mend it"

T = TypeVar("T")


class RefusedError(Exception):
    """The server has answered with an error; its session goes on, unless it has never begun."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, reason


@attrs.frozen
class Reply:
    """What a server says after a reset or a step."""

    observation: Mapping[str, Any]
    reward: float
    done: bool


@attrs.frozen
class Server:
    """A server of OpenEnv, by its address."""

    url: str
    """Address, as far as the path under which ``/ws`` is."""
    timeout: float
    """Largest number of seconds that it may take to answer a message."""

    @property
    def where(self) -> str:
        """Place for messages."""
        return f"environment: openenv, url {self.url}"

    def lost(self, what: str, fix: str = _UP) -> EpisodeLostError:
        """Return the error of an episode that the server does not play to its end."""
        return EpisodeLostError(what, self.where, fix)

    async def connect(self) -> Session:
        """Open a session. Raises EpisodeLostError if that fails."""
        from openenv.core import GenericEnvClient

        seconds = min(self.timeout, _CONNECT_S)
        client = GenericEnvClient(
            self.url, connect_timeout_s=seconds, message_timeout_s=self.timeout, mode="simulation"
        )
        try:
            async with _one_at_a_time(self.url):
                await client.connect()
        except OSError as error:
            raise self.lost(f"the server cannot be reached: {error}") from error
        return Session(self, client, asyncio.get_running_loop())

    async def begin(self, ask: Callable[[Session], Awaitable[T]]) -> tuple[Session, T]:
        """Open a session and ask it something. A server that is full is asked again until ``timeout`` is over.

        Raises:
            EpisodeLostError: it is full, cannot be reached, or gives no answer.
            RefusedError: it gives another error.
        """
        loop, pause = asyncio.get_running_loop(), 0.05
        deadline = loop.time() + self.timeout
        while True:
            session = await self.connect()
            try:
                return session, await ask(session)
            except RefusedError as error:
                session.hang_up()
                if error.code != CAPACITY:
                    raise
                if loop.time() + pause > deadline:
                    fix = "start it with max_concurrent_envs of at least rollout.groups * rollout.group_size"
                    raise self.lost(f"the server takes no further session: {error.reason}", fix) from error
            except BaseException:
                session.hang_up()
                raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)


@attrs.frozen(eq=False)
class Session:
    """A session with a server, which has an environment of its own there."""

    server: Server
    client: Any
    """Client of the package, connected."""
    loop: asyncio.AbstractEventLoop
    """Event loop that the connection belongs to."""

    async def reset(self, seed: int, arguments: Mapping[str, Any]) -> Reply:
        """Start the episode of a seed; raises as :meth:`step`."""
        return self._read(await self._asked("reset", self.client.reset(**arguments, seed=seed)))

    async def step(self, action: Mapping[str, Any]) -> Reply:
        """Play an action, given by its fields.

        Raises:
            EpisodeLostError: the server is gone, does not answer in time, or its answer cannot be read.
            RefusedError: it answers with an error.
        """
        return self._read(await self._asked("step", self.client.step(dict(action))))

    async def state(self) -> Mapping[str, Any]:
        """Return the state that the server tells; raises as :meth:`step`."""
        state = await self._asked("state", self.client.state())
        return state if isinstance(state, Mapping) else {}

    async def close(self) -> None:
        """Close the session, which also closes the environment on the server."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.client.close(), _CONNECT_S)

    def hang_up(self) -> None:
        """Close the session in the background; any thread may ask for it."""
        # the loop of a process that ends is gone, and so are its connections
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(_in_background, self)

    async def _asked(self, what: str, asked: Awaitable[T]) -> T:
        try:
            return await asked
        except TimeoutError as error:
            raise self._lost(f"the server has not answered {what} in {self.server.timeout:g} s") from error
        except asyncio.CancelledError:  # nobody would read the answer that still comes
            self.hang_up()
            raise
        except Exception as error:  # the client raises whatever a broken answer leads to
            refused = _refusal(error) or await self._last_words(error)
            if refused is not None:
                raise refused from error
            told = f"{type(error).__name__}: {error}"
            raise self._lost(f"the server has hung up, or its answer to {what} cannot be read ({told})") from error

    async def _last_words(self, error: Exception) -> RefusedError | None:
        """Return the error that the server sent before it closed the session, if it did."""
        from websockets.exceptions import ConnectionClosed

        if not isinstance(error, ConnectionClosed):
            return None
        with contextlib.suppress(Exception):
            # an answer that came before the question is one that nobody has read
            said = await self.client._receive()
            return RefusedError(str(said["data"]["code"]), str(said["data"]["message"]))
        return None

    def _read(self, result: Any) -> Reply:
        """Check an answer. Raises EpisodeLostError if it is none."""
        observation, reward, done = result.observation, result.reward, result.done
        if not isinstance(observation, Mapping):
            raise self._lost(f"the server's answer has no observation, but {_short(observation)}")
        if not isinstance(done, bool):
            raise self._lost(f"the server's answer has done = {_short(done)}, which is neither true nor false")
        number = 0.0 if reward is None else reward
        if not isinstance(number, Real) or not math.isfinite(number):
            raise self._lost(f"the server's answer has the reward {_short(reward)}, which is no finite number")
        return Reply(observation, float(number), done)

    def _lost(self, what: str) -> EpisodeLostError:
        """Close the session, and return the error of an episode that cannot go on."""
        self.hang_up()
        return self.server.lost(what)


def _refusal(error: Exception) -> RefusedError | None:
    """Return the server's error that the client tells in its words, if it does."""
    found = _ERROR.fullmatch(str(error)) if isinstance(error, RuntimeError) else None
    return RefusedError(found[2], found[1]) if found else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _in_background(session: Session) -> None:
    closing = session.loop.create_task(session.close())
    _CLOSING.add(closing)
    closing.add_done_callback(_CLOSING.discard)


async def hung_up() -> None:
    """Wait for the sessions that are being closed on this event loop, which is about to end."""
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    await asyncio.gather(*[task for task in _CLOSING if task.get_loop() is loop])


_CLOSING: set[asyncio.Task[None]] = set()
"""Sessions that are being closed; a loop itself keeps no hold of its tasks."""


def is_loopback(url: str) -> bool:
    """Say whether an address is one that the package's client reaches without a proxy."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1")


def _one_at_a_time(url: str) -> contextlib.AbstractAsyncContextManager[Any]:
    """Let one connection at a time be opened, where the client changes NO_PROXY meanwhile for the whole process."""
    if not is_loopback(url):
        return contextlib.nullcontext()
    return _LOCKS.setdefault(asyncio.get_running_loop(), asyncio.Lock())


_LOCKS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()
