"""A fork server imports once what jobs share, and forks each of them: they start without paying for the imports.

For jobs of the form ``python -m MODULE ARGUMENTS`` that use no GPU (CUDA does not survive a fork). The fork runs MODULE
as ``__main__`` in a session of its own, with its own log and the signal handlers of a fresh interpreter, so that it
ends, is interrupted and logs as a process of its own does; only ``ps`` shows the command of the server. A server with
more than one thread after its imports is not used: a lock may be held in a thread that the fork does not have.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from .guardian import signal_group

POLL_S = 0.02
READY_S = 120.0
MESSAGE_BYTES = 2**17


class ForkServer:
    """The launcher's end of a fork server."""

    def __init__(self, preload: Sequence[str], environment: Mapping[str, str]) -> None:
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._codes: dict[int, int] = {}
        self.usable = True
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(other.fileno()), *preload],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[other.fileno()],
            )
        self.usable = self._receive(READY_S) == {"ready": True}

    def start(self, module: str, arguments: Sequence[str], log: int) -> int | None:
        """Return the process, a group leader, with the file ``log`` as its output; ``None`` if the server is gone."""
        message = json.dumps([module, *arguments]).encode()
        try:
            socket.send_fds(self._channel, [message], [log])
        except OSError:
            self.usable = False
            return None
        while self.usable:
            answer = self._receive(READY_S)
            if "started" in answer:
                return answer["started"]
        return None

    def poll(self, pid: int) -> int | None:
        """Return what :meth:`subprocess.Popen.poll` would; a process whose server was killed is killed as well."""
        while self.usable and pid not in self._codes and self._receive(0):
            pass
        if not self.usable and pid not in self._codes:
            signal_group(pid, signal.SIGKILL)
            return -signal.SIGKILL
        return self._codes.get(pid)

    def close(self) -> None:
        """The server ends, and with it what it has started."""
        self._channel.close()
        if not self.usable:  # it may be busy importing; it has started nothing
            self._process.kill()
        self._process.wait()

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        """Return the next message; nothing if none comes in time."""
        if not select.select([self._channel], [], [], timeout_s)[0]:
            self.usable = self.usable and timeout_s == 0
            return {}
        try:
            message = self._channel.recv(MESSAGE_BYTES)
        except OSError:
            message = b""
        if not message:
            self.usable = False
            return {}
        answer = json.loads(message)
        if "ended" in answer:
            self._codes[answer["ended"]] = answer["code"]
        return answer


def main() -> None:
    """Import the modules, and serve until the launcher is gone: ``python -m ... DESCRIPTOR MODULE...``."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    try:
        for module in sys.argv[2:]:
            import_module(module)
    except BaseException:
        os._exit(1)
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        os._exit(1)
    gc.freeze()  # a collection in a fork would copy all the pages that it touches
    channel.send(json.dumps({"ready": True}).encode())
    module, *sys.argv[1:] = _serve(channel)
    # In a fork. What is raised goes through to the interpreter, as from the module itself.
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _serve(channel: socket.socket) -> list[str]:
    """Fork a process for each message, and return in each fork with its module and arguments."""
    children: set[int] = set()
    while True:
        if select.select([channel], [], [], POLL_S if children else None)[0]:
            message, logs, *_ = socket.recv_fds(channel, MESSAGE_BYTES, 1)
            if not message:
                _end(children)
            pid = os.fork()
            if pid == 0:
                _become_a_job(channel, logs[0])
                return json.loads(message)
            os.close(logs[0])
            children.add(pid)
        while children and (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
            signal_group(ended.si_pid, signal.SIGKILL)  # before the number is free again
            code = os.waitstatus_to_exitcode(os.waitpid(ended.si_pid, 0)[1])
            children.discard(ended.si_pid)
            with suppress(OSError):
                channel.send(json.dumps({"ended": ended.si_pid, "code": code}).encode())


def _become_a_job(channel: socket.socket, log: int) -> None:
    os.setsid()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    if "numpy.random" in sys.modules:  # the one generator here that is neither seeded by all jobs nor after a fork
        sys.modules["numpy.random"].seed()
    channel.send(json.dumps({"started": os.getpid()}).encode())
    channel.close()


def _end(children: set[int]) -> NoReturn:
    for pid in children:
        signal_group(pid, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
