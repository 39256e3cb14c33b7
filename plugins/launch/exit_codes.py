"""The exit code of a job is put into words."""

from __future__ import annotations

import signal

CANNOT_START = 127
"""Exit code of a job whose program could not be started."""
PERHAPS = {
    signal.SIGKILL: "perhaps out of memory",
    signal.SIGTERM: "somebody asked it to end",
    signal.SIGHUP: "its terminal was closed",
    signal.SIGXCPU: "over its limit of CPU time",
    signal.SIGBUS: "perhaps shared memory or a disk is full",
    signal.SIGSEGV: "a library has crashed",
    signal.SIGABRT: "a library has given up",
}


def how_it_ended(code: int) -> str:
    """Say how a job ended, as in ``killed by signal 9 (SIGKILL): perhaps out of memory``, or with which code."""
    if code == CANNOT_START:
        return f"the process could not be started (code {code})"
    try:
        number = signal.Signals(code - 128)
    except ValueError:
        return f"the process ended with code {code}"
    why = f": {PERHAPS[number]}" if number in PERHAPS else ""
    return f"killed by signal {number.value} ({number.name}){why}"
