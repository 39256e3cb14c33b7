"""A time limit for what an environment does, so that one that hangs ends a run with a message.

In the main thread a watching thread sends a signal (SIGURG, which nothing else uses and which is ignored by default;
SIGALRM stays the environment's own), whose handler raises. That ends Python code, ``time.sleep``, and waiting for
locks, files, sockets and processes. In other threads, which no signal reaches, the call runs in a helper thread that is
left behind. C code that waits whatever signal comes, or never gives other threads a turn, ends with the process.
"""

from __future__ import annotations

import faulthandler
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

import attrs

from ...core.errors import RunError

T = TypeVar("T")

_TICK_S = 1.0
"""How often, at least, the watching thread looks at the clock."""
_GRACE_S = 10.0
"""How long after the limit a call may go on before the process is ended: neither Python nor a signal reaches it."""


@attrs.frozen
class TimeLimit:
    """Calls what an environment does for one member of a group, each within ``seconds`` (``None``: no limit)."""

    environment: str
    """Its name, for messages."""
    seconds: float | None
    seed: int
    """Of the group."""
    member: int

    def __call__(self, what: str, function: Callable[..., T], *arguments: Any) -> T:
        """What ``function`` returns or raises.

        Args:
            what: what it is, for the message: ``a step in turn 2``.

        Raises:
            RunError: it took longer.
        """
        if self.seconds is None:
            return function(*arguments)
        main = threading.get_ident() == threading.main_thread().ident
        return (_ALARM.call if main else _helper().call)(self, what, function, arguments)

    def exceeded(self, what: str) -> RunError:
        return RunError(
            f"the environment {self.environment} took more than {self.seconds:g} s for {what}",
            f"the group of seed {self.seed}, member {self.member}",
            "mend the environment, or raise rollout.step_timeout (null: no limit), and continue with --resume",
        )


class _Expired(BaseException):
    """Raised in the environment. No Exception, since environments catch those in order to go on."""


class _Alarm:
    """The deadline of the main thread, and the thread that watches it."""

    def __init__(self) -> None:
        self.deadline = math.inf
        self.running: tuple[TimeLimit, str] | None = None
        """Whose deadline it is, and for what."""
        self.tick = _TICK_S
        self.process = 0
        """Whose the watching thread is: a fork has none."""
        self.checked = -math.inf
        """When all that follows was last seen to; never, while nothing is called."""
        self.last_words: Callable[[RunError], None] | None = None

    def call(self, limit: TimeLimit, what: str, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        assert limit.seconds is not None
        now, outer = time.monotonic(), (self.deadline, self.running)
        self._watch(limit.seconds, now)
        try:
            try:
                self.running, self.deadline = (limit, what), min(outer[0], now + limit.seconds)
                return function(*arguments)
            finally:
                self.deadline, self.running = outer
        except _Expired as expired:
            self.deadline, self.running = outer  # again: it may have come between the two lines above
            raise limit.exceeded(what) from expired

    def _watch(self, seconds: float, now: float) -> None:
        """See, once in a while, that the signal has its handler, the clock its watcher, and both a net below them."""
        if now - self.checked <= self.tick <= seconds / 4 and self.process == os.getpid():
            return
        self.checked, self.tick = now, min(self.tick, seconds / 4)
        if signal.getsignal(signal.SIGURG) != self._ring:
            signal.signal(signal.SIGURG, self._ring)
        if self.process != os.getpid():
            self.process = os.getpid()
            threading.Thread(target=self._run, name="step timeout", daemon=True).start()
        # C code that holds Python's lock stops the watching thread too, but not this one, which is not Python's
        faulthandler.dump_traceback_later(seconds + 2 * _GRACE_S, exit=True, file=2)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() > self.deadline:
            raise _Expired

    def _run(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        while True:
            time.sleep(self.tick)
            late, running = time.monotonic() - self.deadline, self.running
            if running is None and self.checked > -math.inf:
                faulthandler.cancel_dump_traceback_later()
                self.checked = -math.inf
            if late > _GRACE_S and running is not None:
                self._end_process(running[0].exceeded(running[1]))
            if late > 0:  # again and again, in case the environment catches what is raised
                signal.pthread_kill(main, signal.SIGURG)

    def _end_process(self, error: RunError) -> None:
        """The last resort. The main thread may be anywhere, so nothing is cleaned up."""
        sys.stderr.write(f"error: {error}\n  the call cannot be interrupted, so the process ends; it was here:\n")
        faulthandler.dump_traceback(file=2, all_threads=True)
        with suppress(Exception):
            if self.last_words is not None:
                self.last_words(error)
        os._exit(RunError.exit_code)


@contextmanager
def last_words(say: Callable[[RunError], None]) -> Iterator[None]:
    """``say`` is called, in another thread, before a call that cannot be interrupted ends the process."""
    _ALARM.last_words = say
    try:
        yield
    finally:
        _ALARM.last_words = None


class _Helper:
    """A thread that calls for another one, which can stop waiting."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="environment", daemon=True).start()

    def call(self, limit: TimeLimit, what: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        self.calls.put(lambda: function(*arguments))
        try:
            answer, raised = self.answers.get(timeout=limit.seconds)
        except queue.Empty:
            del _HELPERS.own  # whatever it answers one day is nobody's
            raise limit.exceeded(what) from None
        if raised is not None:
            raise raised
        return answer

    def _serve(self) -> None:
        while True:
            call = self.calls.get()
            try:
                self.answers.put((call(), None))
            except BaseException as error:
                self.answers.put((None, error))


_ALARM = _Alarm()
_HELPERS = threading.local()


def _helper() -> _Helper:
    """The helper of this thread: always the same one, since environments may hold what belongs to a thread."""
    if not hasattr(_HELPERS, "own"):
        _HELPERS.own = _Helper()
    return _HELPERS.own
