"""A timer of the kernel sends a signal other than SIGALRM, even while C code keeps Python's lock."""

from __future__ import annotations

import ctypes
import os
import signal

_CLOCK_MONOTONIC, _SIGEV_SIGNAL = 1, 0
_CLOCK_THREAD_CPUTIME_ID = 3


class _SigEvent(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("padding", ctypes.c_int * 12),
    )


class _Specification(ctypes.Structure):
    _fields_ = (("interval", ctypes.c_long * 2), ("first", ctypes.c_long * 2))


class KernelTimer:
    """A timer that rings after some seconds, then again and again. A forked process must make its own."""

    def __init__(self, number: signal.Signals, again_s: float, *, of_thread: bool = False) -> None:
        """Make a timer that sends signal ``number``, and repeats after ``again_s`` seconds.

        With ``of_thread`` the seconds are those of processor time that the calling thread takes.

        Raises:
            OSError: the kernel refuses the timer.
            AttributeError: the system has no such timers.
        """
        self._set = ctypes.CDLL(None, use_errno=True).timer_settime
        create = ctypes.CDLL(None, use_errno=True).timer_create
        self._timer = ctypes.c_void_p()
        event = _SigEvent(signo=number, notify=_SIGEV_SIGNAL)
        clock = _CLOCK_THREAD_CPUTIME_ID if of_thread else _CLOCK_MONOTONIC
        if create(clock, ctypes.byref(event), ctypes.byref(self._timer)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._interval = _parts(again_s)

    def start(self, seconds: float) -> None:
        """Ring in so many seconds; 0 stops the timer."""
        specification = _Specification(self._interval if seconds else (0, 0), _parts(seconds))
        self._set(self._timer, 0, ctypes.byref(specification), None)

    def close(self) -> None:
        """Give the timer back."""
        ctypes.CDLL(None).timer_delete(self._timer)


def _parts(seconds: float) -> tuple[int, int]:
    whole = int(seconds)
    return whole, int((seconds - whole) * 1e9)
