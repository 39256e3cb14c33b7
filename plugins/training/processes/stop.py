"""Ctrl-C, and the signals of terminals and batch systems, are requests to stop: the current step is finished first."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import attrs

from ....core.console.streams import say

SAME_REQUEST_S = 1.0
"""Seconds within which several signals are one: a launcher passes on what the terminal has sent to all processes."""
INSISTING = (signal.SIGINT, signal.SIGTERM)
"""Signals of which a second one stops at once. Other signals are sent repeatedly, or announce one of these."""
SIGNALS = (*INSISTING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Signals that are requests: a closed terminal, warnings of batch systems, a limit of processor time. Each of them ends
a process that does not handle it. (So does SIGQUIT, which is left alone for those who want that.)"""


@attrs.define
class StopRequest:
    """A stop request is set by the first signal; the loop looks at it after each step."""

    asked: bool = False
    """Whether a signal has come."""
    asked_at: float = -math.inf
    """Time in seconds of the last of :data:`INSISTING`, on the monotonic clock."""
    insisted: bool = False
    """Whether one of :data:`INSISTING` was among the signals so far."""
    waits: str = ""
    """Work that is finished first, in words; empty while models are loaded: a stop then takes effect at once."""


def listened_to() -> list[signal.Signals]:
    """List the signals that ask for a stop, without SIGHUP if the process was told to ignore it (``nohup``).

    The list is empty in a thread that is not the main one: there the program that started it handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in SIGNALS if number != signal.SIGHUP or not ignored]


@contextmanager
def stop_request(speaks: bool) -> Iterator[StopRequest]:
    """Handle signals for a while: the first of :data:`SIGNALS` asks for a stop after the current step.

    A second Ctrl-C or SIGTERM stops at once. The rank that ``speaks`` tells the user.
    """
    stop = StopRequest()

    def ask(signum: int, frame: FrameType | None) -> None:
        if time.monotonic() - stop.asked_at < SAME_REQUEST_S:
            return
        again = stop.insisted and signum in INSISTING
        first = not stop.asked
        stop.asked = True
        if signum in INSISTING:
            stop.insisted = True
            stop.asked_at = time.monotonic()
        if again or not stop.waits:
            raise KeyboardInterrupt
        if speaks and first:
            say(f"{signal.Signals(signum).name}: {stop.waits}; interrupt again to stop at once")

    previous = {number: signal.signal(number, ask) for number in listened_to()}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
