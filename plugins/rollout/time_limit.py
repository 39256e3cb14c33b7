"""A time limit for what environments and dialogues do, so that one that hangs ends a run with a message.

In the main thread a timer of the kernel sends a signal, whose handler raises. (It is SIGURG, which nothing else uses
and which is ignored by default: SIGALRM stays the environment's own.) That ends Python code, ``time.sleep``, regular
expressions, powers of large numbers, and waiting for locks, files, sockets and processes. Where a call goes on all the
same, a watching thread ends the process. In other threads, which no signal reaches, the call runs in a helper thread
that is left behind. What neither looks at signals nor gives other threads a turn cannot be ended from here.
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

from ...core.errors import RESUME, RunError
from .kernel_timer import KernelTimer

T = TypeVar("T")

_TICK_S = 1.0
"""How often, at least, the watching thread looks at the clock."""
_GRACE_S = 10.0
"""How long after the limit a call may go on before the process is ended."""
_SUSPENDED_S = 5.0
"""The watching thread oversleeps by more where the whole process was suspended, which is nobody's fault."""


@attrs.frozen
class TimeLimit:
    """Calls what a component does for one member of a group, each within ``seconds`` (``None``: no limit)."""

    name: str
    """The component's, for messages."""
    seconds: float | None
    seed: int
    """Of the group."""
    member: int
    kind: str = "environment"

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
            f"the {self.kind} {self.name} took more than {self.seconds:g} s for {what}",
            f"the group of seed {self.seed}, member {self.member}",
            f"mend the {self.kind}, or raise rollout.step_timeout (null: no limit), and continue with {RESUME}",
        )


class _Expired(BaseException):
    """Raised in the environment. No Exception, since environments catch those in order to go on."""


class _Alarm:
    """The deadline of the main thread, the timer that rings at it, and the thread that watches what happens then."""

    def __init__(self) -> None:
        self.deadline = math.inf
        self.running: tuple[TimeLimit, str] | None = None
        """Whose deadline it is, and for what."""
        self.tick = _TICK_S
        self.process = 0
        """Whose the watching thread is: a fork has none."""
        self.checked = -math.inf
        """When handlers, timer and thread were last seen to."""
        self.timer: KernelTimer | None = None
        self.rings_at = math.inf
        """When the timer does, if it is started."""
        self.last_words: Callable[[RunError], None] | None = None

    def call(self, limit: TimeLimit, what: str, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        assert limit.seconds is not None
        now, outer = time.monotonic(), (self.deadline, self.running)
        self._prepare(limit.seconds, now)
        try:
            try:
                self.running, self.deadline = (limit, what), min(outer[0], now + limit.seconds)
                self._set_timer(now)
                return function(*arguments)
            finally:
                self.deadline, self.running = outer
        except _Expired as expired:
            self.deadline, self.running = outer  # again: it may have come between the two lines above
            raise limit.exceeded(what) from expired

    def _set_timer(self, now: float) -> None:
        """Only where it would ring too late: that it rings too early, in a later call, costs less than to stop it."""
        if self.deadline < self.rings_at and self.timer is not None:
            self.rings_at = self.deadline
            self.timer.start(max(self.deadline - now, 1e-3))

    def _prepare(self, seconds: float, now: float) -> None:
        """See, once in a while, that the signals have their handlers, and that there are a timer and a thread."""
        if now - self.checked <= self.tick <= seconds / 4 and self.process == os.getpid():
            return
        self.checked, self.tick = now, min(self.tick, seconds / 4)
        if signal.getsignal(signal.SIGURG) != self._ring:
            signal.signal(signal.SIGURG, self._ring)
            signal.signal(signal.SIGCONT, self._go_on)
        if self.process != os.getpid():
            self.process = os.getpid()
            with suppress(OSError, AttributeError):  # the thread sends the signal as well
                self.timer, self.rings_at = KernelTimer(signal.SIGURG, _TICK_S), math.inf
            threading.Thread(target=self._run, name="step timeout", daemon=True).start()

    def _ring(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now > self.deadline:
            raise _Expired
        self.rings_at = math.inf
        if self.running is not None:
            self._set_timer(now)
        elif self.timer is not None:
            self.timer.start(0)

    def _go_on(self, number: int, frame: FrameType | None) -> None:
        """The process was suspended, by Ctrl-Z or a scheduler: the call gets its time anew."""
        if self.running is not None and self.running[0].seconds is not None:
            now = time.monotonic()
            self.deadline, self.rings_at = now + self.running[0].seconds, math.inf
            self._set_timer(now)

    def _run(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        while True:
            slept = time.monotonic()
            time.sleep(self.tick)
            now = time.monotonic()
            if now - slept > self.tick + _SUSPENDED_S:
                continue
            late, running = now - self.deadline, self.running
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
