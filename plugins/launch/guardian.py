"""The guardian is a process that ends the jobs of a launcher which died without a chance to, e.g. by ``kill -9``.

It is told process groups through a socket. The socket closes when the launcher ends, however it ends: then the guardian
kills every group that it was not told to forget, and exits. It is in a session of its own and no child of the launcher,
so that neither Ctrl-C nor the end of the launcher's group reaches it. Run as a program, this file is the guardian.
"""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress


class Guardian:
    """The launcher's end of a guardian. One that is killed is no longer there to help, but hurts nothing."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair()
        with other:
            subprocess.run(  # it goes on in a child of its own, so this returns at once
                [sys.executable, "-I", "-S", __file__],
                stdin=other.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
                check=True,
            )

    def watch_me(self) -> None:
        """Tell the guardian of this process before it becomes the job: no moment passes in which nobody knows of it."""
        self._tell(b"+%d\n" % os.getpid())

    def watch(self, group: int) -> None:
        self._tell(b"+%d\n" % group)

    def forget(self, group: int) -> None:
        self._tell(b"-%d\n" % group)

    def close(self) -> None:
        self._socket.close()

    def _tell(self, message: bytes) -> None:
        with suppress(OSError):  # it was killed
            self._socket.send(message, socket.MSG_NOSIGNAL)


def exists(group: int) -> bool:
    """Say whether a process group has a member."""
    return signal_group(group, 0)


def signal_group(group: int, number: int) -> bool:
    """Signal a process group, and say whether there was anything left to signal."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # a member has changed its user
        return True
    return True


def guard() -> None:
    """Read from standard input until it ends; kill what is left."""
    groups: set[int] = set()
    with open(0, "rb", buffering=0) as launcher:
        for message in launcher:
            sign, group = message[:1], int(message[1:])
            groups = {alive for alive in groups if exists(alive)}  # a number that is free again may become another's
            if sign == b"+":
                groups.add(group)
            else:
                groups.discard(group)
    for group in groups:
        signal_group(group, signal.SIGKILL)


if __name__ == "__main__" and not os.fork():
    guard()
