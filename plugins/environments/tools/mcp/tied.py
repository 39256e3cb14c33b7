"""Run as a program, this file becomes another one, which the kernel ends when the process of the run ends.

A run that is killed cannot end its servers itself. Most end when their standard input does; the kernel ends those that
do not, where it can (Linux). It is started as ``tied.py PARENT COMMAND ARGUMENT...`` by the process PARENT.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1
_NOT_FOUND = 127
"""The exit code of a shell for a command that cannot be run."""


def become(parent: int, command: list[str]) -> int:
    """Replace this process by a command; return an exit code if that fails, or if the parent has ended."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
    return _NOT_FOUND


if __name__ == "__main__":
    sys.exit(become(int(sys.argv[1]), sys.argv[2:]))
