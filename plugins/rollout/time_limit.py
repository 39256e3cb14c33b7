"""A time limit ends the call of an environment or dialogue that hangs, and the run with a message.

In the main thread a timer of the kernel sends a signal, whose handler raises. (It is SIGURG, which nothing else uses
and which is ignored by default: SIGALRM stays the environment's own.) That ends Python code, ``time.sleep``, regular
expressions, powers of large numbers, and waiting for locks, files, sockets and processes. Where a call goes on
nevertheless, a watching thread ends the process. Signals do not reach other threads, so their calls run in a helper
thread, which is abandoned after the limit: Python code in it is interrupted, anything else goes on without anybody who
waits for it, and does not keep the process from ending. A call that neither handles signals nor lets other threads run
cannot be ended from here.
"""

from __future__ import annotations

import ctypes
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

from ...core.errors import RESUME, EpisodeLostError, RunError
from .kernel_timer import KernelTimer

T = TypeVar("T")

_TICK_S = 1.0
"""The longest time in seconds between two looks of the watching thread at the clock."""
_GRACE_S = 10.0
"""The time in seconds after the limit at which the process is ended."""
_SUSPENDED_S = 5.0
"""The time in seconds by which the watching thread oversleeps if the whole process was suspended."""


@attrs.frozen
class TimeLimit:
    """The time limit of the calls that play one member of a group."""

    name: str
    """The name of the component, for messages."""
    seconds: float | None
    """The longest time of one call; ``None`` sets no limit."""
    seed: int
    """The environment seed of the group."""
    member: int
    """The number of the episode in its group."""
    kind: str = "environment"
    """The kind of the component, for messages."""

    def __call__(self, what: str, function: Callable[..., T], *arguments: Any) -> T:
        """Return what ``function`` returns, or raise what it raises.

        Args:
            what: the name of the call for the message, such as ``a step in turn 2``.
            function: the function to call.
            arguments: its arguments.

        Raises:
            EpisodeLostError: it took longer than ``seconds``; RunError where it is no environment's.
        """
        if self.seconds is None:
            return function(*arguments)
        main = threading.get_ident() == threading.main_thread().ident
        return (_ALARM.call if main else _helper().call)(self, what, function, arguments)

    def exceeded(self, what: str) -> RunError:
        """Return the error of a call that took too long; an environment's costs its group, not the run."""
        error = EpisodeLostError if self.kind == "environment" else RunError
        return error(
            f"the {self.kind} {self.name} took more than {self.seconds:g} s for {what}",
            f"the group of seed {self.seed}, member {self.member}",
            f"mend the {self.kind}, or raise rollout.step_timeout (null: no limit), and continue with {RESUME}",
        )


class _Expired(BaseException):
    """The limit is over. It is no Exception, since environments may catch those and go on."""


class _Alarm:
    """The deadline of the main thread, the timer that rings at it, and the thread that watches what happens then."""

    def __init__(self) -> None:
        self.deadline = math.inf
        self.running: tuple[TimeLimit, str] | None = None
        """The limit that runs, and the name of its call."""
        self.tick = _TICK_S
        self.process = 0
        """The id of the process that has the watching thread; a fork has none."""
        self.checked = -math.inf
        """The time of the last check of handlers, timer and thread."""
        self.timer: KernelTimer | None = None
        self.rings_at = math.inf
        """The time at which the timer rings, if it is started."""
        self.last_words: Callable[[RunError], None] | None = None
        """A function that is called before the process is ended."""

    def call(self, limit: TimeLimit, what: str, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        assert limit.seconds is not None
        now = time.monotonic()
        outer = (self.deadline, self.running)
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
        """Start the timer if it would ring too late. Ringing too early, in a later call, is cheaper than to stop it."""
        if self.deadline < self.rings_at and self.timer is not None:
            self.rings_at = self.deadline
            self.timer.start(max(self.deadline - now, 1e-3))

    def _prepare(self, seconds: float, now: float) -> None:
        """Check from time to time that the signals have their handlers, and that timer and thread exist."""
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
        """Give the call its whole time again after the process was suspended, by Ctrl-Z or a scheduler."""
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
        """End the process, as the last resort. The main thread may be anywhere, so nothing is cleaned up."""
        sys.stderr.write(f"error: {error}\n  the call cannot be interrupted, so the process ends; it was here:\n")
        faulthandler.dump_traceback(file=2, all_threads=True)
        with suppress(Exception):
            if self.last_words is not None:
                self.last_words(error)
        os._exit(RunError.exit_code)


@contextmanager
def last_words(say: Callable[[RunError], None]) -> Iterator[None]:
    """Within the block, call ``say`` before the process ends because a call cannot be interrupted.

    It is called in another thread.
    """
    _ALARM.last_words = say
    try:
        yield
    finally:
        _ALARM.last_words = None


class _Helper:
    """A thread that makes calls for another thread, which can stop waiting for them.

    A call that lets no other thread run, such as a regular expression, cannot be left alone. A timer of the thread's
    processor time, which nobody then sets anew, ends the process by a signal (SIGVTALRM) after all lines were printed
    at which its threads are.
    """

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self.timer: KernelTimer | None = None
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._serve, name="environment", daemon=True)
        self.thread.start()
        self.ready.wait()

    def call(self, limit: TimeLimit, what: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        assert limit.seconds is not None
        self._set_timer(limit.seconds + _GRACE_S)
        self.calls.put(lambda: function(*arguments))
        try:
            answer, raised = self._answer(limit.seconds)
        except queue.Empty:
            self._set_timer(0)
            release_helper()  # a later answer must not be taken for that of another call
            self._interrupt()
            raise limit.exceeded(what) from None
        if raised is not None:
            raise raised
        return answer

    def _answer(self, seconds: float) -> tuple[Any, BaseException | None]:
        """Wait for the answer. The whole time is given again after the process was suspended. Raises queue.Empty."""
        left = seconds
        while True:
            tick, started = min(left, _TICK_S), time.monotonic()
            try:
                return self.answers.get(timeout=tick)
            except queue.Empty:
                slept = time.monotonic() - started
                if slept > tick + _SUSPENDED_S:
                    left = seconds
                    self._set_timer(seconds + _GRACE_S)
                elif (left := left - slept) <= 0:
                    raise

    def _set_timer(self, seconds: float) -> None:
        if self.timer is not None:
            self.timer.start(seconds)

    def end(self) -> None:
        """Let the thread end after the call that it makes, if it makes one."""
        self.calls.put(None)

    def _interrupt(self) -> None:
        """Raise an exception in the thread, which it meets when it next computes in Python."""
        number = ctypes.c_ulong(self.thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(_Expired))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Make the timer, which is that of the thread that makes it."""
        with suppress(OSError, AttributeError):
            if signal.getsignal(signal.SIGVTALRM) is signal.SIG_DFL:
                faulthandler.register(signal.SIGVTALRM, file=2, all_threads=True, chain=True)
                self.timer = KernelTimer(signal.SIGVTALRM, _TICK_S, of_thread=True)
        self.ready.set()
        try:
            yield
        finally:
            timer, self.timer = self.timer, None
            if timer is not None:
                timer.close()

    def _serve(self) -> None:
        with suppress(_Expired), self._timed():  # it may come just after the call
            while (call := self.calls.get()) is not None:
                try:
                    self.answers.put((call(), None))
                except BaseException as error:
                    self.answers.put((None, error))


_ALARM = _Alarm()
_HELPERS = threading.local()


def _helper() -> _Helper:
    """Return the helper of this thread: always the same one, since environments may hold what belongs to a thread."""
    if not hasattr(_HELPERS, "of_thread"):
        _HELPERS.of_thread = _Helper()
    return _HELPERS.of_thread


def release_helper() -> None:
    """End the helper of this thread, if it has one. A thread that ends must call it, or its helper would stay."""
    helper: _Helper | None = vars(_HELPERS).pop("of_thread", None)
    if helper is not None:
        helper.end()
