"""What the exit code of a process says about its end, in words."""

from __future__ import annotations

import signal

PERHAPS = {
    "SIGKILL": "perhaps the machine, or the job's limit, is out of memory",
    "SIGSEGV": "a library has failed",
    "SIGABRT": "a library has failed",
    "SIGBUS": "a file or shared memory is gone or full",
    "SIGXCPU": "its limit of processor time is reached",
}
"""Signal -> what most often sends it."""


def ending(code: int) -> str:
    """``was killed by signal 9 (SIGKILL): perhaps the machine is ...`` or ``failed with exit code 1``.

    ``code`` is a shell's (128 + n) or Python's (-n) for a death by signal n.
    """
    number = -code if code < 0 else code - 128
    if not 0 < number < signal.NSIG:
        return f"failed with exit code {code}"
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"was killed by signal {number}"
    return f"was killed by signal {number} ({name})" + (f": {PERHAPS[name]}" if name in PERHAPS else "")
