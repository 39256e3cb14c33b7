"""Ctrl-C and SIGTERM as a request: what is being done is done first, unless it is asked for again."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import attrs

SAME_REQUEST_S = 1.0
"""Signals this close together are one: a launcher passes on what the terminal has sent to everybody."""


@attrs.define
class StopRequest:
    """Set by the first Ctrl-C (or SIGTERM) while steps are done; the loop looks at it after each step."""

    asked: bool = False
    asked_at: float = -math.inf
    waits: str = ""
    """What is done first. Nothing while models are built and loaded: then a stop takes effect at once."""


@contextmanager
def stop_request(speaks: bool) -> Iterator[StopRequest]:
    """The first SIGINT or SIGTERM asks for a stop after the current step, with a checkpoint; the second stops at
    once. The rank that ``speaks`` says so.
    """
    stop = StopRequest()

    def ask(signum: int, frame: FrameType | None) -> None:
        if time.monotonic() - stop.asked_at < SAME_REQUEST_S:
            return
        again, stop.asked, stop.asked_at = stop.asked, True, time.monotonic()
        if again or not stop.waits:
            raise KeyboardInterrupt
        if speaks:
            sys.stderr.write(f"{stop.waits}; interrupt again to stop at once\n")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
