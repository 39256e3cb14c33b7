"""The processes of one run on this machine: one command on every rank, signals passed on, and one exit code.

Not DeepSpeed's launcher: that ends ranks 30 seconds after a Ctrl-C, whatever they are doing, and forgets their codes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import psutil

from .stop import listened_to

POLL_S = 0.2
PATIENCE_S = 30.0
"""How long ranks may go on after one has failed: they wait for it, or are writing down how the run ended."""
LAUNCHER = "UNCOLLAPSE_LAUNCHER"
"""Environment variable of a rank: the process that has started it."""
PR_SET_PDEATHSIG = 1


def run_ranks(command: Sequence[str], ranks: int) -> int:
    """Run ``command`` once for each rank (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) and wait for all.

    The signals that ask a run to stop go to every rank; how long a rank takes to end then is its own affair.

    Returns:
        0, or the exit code of the first rank that ended with another: 128 + n for a death by signal n.
    """
    shared = {"WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), LAUNCHER: os.getpid()}
    place = os.environ | {name: str(value) for name, value in shared.items()}
    processes: list[subprocess.Popen[bytes]] = []
    signals: list[int] = []

    # The handler only takes note: a signal that comes while ranks are being started must reach those not yet there.
    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    previous = {number: signal.signal(number, note) for number in listened_to()}
    try:
        for rank in range(ranks):
            processes.append(subprocess.Popen(command, env={**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
        return _wait(processes, signals)
    finally:
        end(processes)
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_with_launcher() -> None:
    """Called by a rank: it gets SIGTERM if the process that has started it is killed (on Linux)."""
    if sys.platform == "linux" and os.environ.get(LAUNCHER) == str(os.getppid()):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(processes: Sequence[subprocess.Popen[bytes]], signals: list[int]) -> int:
    """Pass on the ``signals`` as they come, and wait: for all ranks, or for :data:`PATIENCE_S` after one has failed."""
    failure, deadline = 0, float("inf")
    while None in (codes := [process.poll() for process in processes]) and time.monotonic() < deadline:
        while signals:
            number = signals.pop(0)
            for process in processes:
                process.send_signal(number)
        if not failure and (failure := next(filter(None, codes), 0)):
            deadline = time.monotonic() + PATIENCE_S
        time.sleep(POLL_S)
    failure = failure or next(filter(None, codes), 0)
    return failure if failure >= 0 else 128 - failure


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill what is left of the processes, and of all that they have started."""
    for process in processes:
        if process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                head = psutil.Process(process.pid)
                for each in (*head.children(recursive=True), head):
                    with suppress(psutil.NoSuchProcess):
                        each.kill()
            process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
