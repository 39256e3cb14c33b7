"""Ctrl-C, and what terminals and batch systems send, as a request: what is being done is done first."""

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
"""Signals this close together are one: a launcher passes on what the terminal has sent to everybody."""
INSISTING = (signal.SIGINT, signal.SIGTERM)
"""A second one of these stops at once. The others are sent again and again, or announce one of these."""
SIGNALS = (*INSISTING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""A closed terminal, the warnings of batch systems, a limit of processor time: all of them end a process that does
nothing about them. (SIGQUIT does, and is left to whoever wants that.)"""


@attrs.define
class StopRequest:
    """Set by the first signal while steps are done; the loop looks at it after each step."""

    asked: bool = False
    asked_at: float = -math.inf
    insisted: bool = False
    """Whether one of :data:`INSISTING` was among the signals so far."""
    waits: str = ""
    """What is done first. Nothing while models are built and loaded: then a stop takes effect at once."""


def listened_to() -> list[signal.Signals]:
    """The signals that ask for a stop. One that the process was told to ignore (``nohup``) is none.

    In another thread than the main one none is: they are the business of the program that has started it.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in SIGNALS if number != signal.SIGHUP or not ignored]


@contextmanager
def stop_request(speaks: bool) -> Iterator[StopRequest]:
    """The first of :data:`SIGNALS` asks for a stop after the current step, with a checkpoint.

    A second Ctrl-C or SIGTERM stops at once. The rank that ``speaks`` says so.
    """
    stop = StopRequest()

    def ask(signum: int, frame: FrameType | None) -> None:
        if time.monotonic() - stop.asked_at < SAME_REQUEST_S:
            return
        again = stop.insisted and signum in INSISTING
        first, stop.asked = not stop.asked, True
        if signum in INSISTING:
            stop.insisted, stop.asked_at = True, time.monotonic()
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
