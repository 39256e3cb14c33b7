"""The processes of one run on this machine get one command and the same signals, and give one exit code.

DeepSpeed's launcher is not used here: it ends ranks 30 seconds after a Ctrl-C, whatever they are doing, and forgets
their exit codes.
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
"""Seconds between two looks at the processes."""
PATIENCE_S = 30.0
"""Seconds that ranks may go on after one has failed: they wait for it, or are writing how the run ended."""
LAUNCHER = "UNCOLLAPSE_LAUNCHER"
"""Environment variable of a rank that holds the id of the process that has started it."""
PR_SET_PDEATHSIG = 1
"""Number of a Linux ``prctl`` that sets the signal for the death of the parent process."""


def run_ranks(command: Sequence[str], ranks: int) -> int:
    """Run ``command`` once for each rank (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) and wait for all.

    The signals that ask a run to stop go to every rank. A rank then has as much time to end as it needs.

    Returns:
        0, or the exit code of the first rank that ended with another: 128 + n for a death by signal n.
    """
    shared = {"WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), LAUNCHER: os.getpid()}
    environment = os.environ | {name: str(value) for name, value in shared.items()}
    processes: list[subprocess.Popen[bytes]] = []
    signals: list[int] = []

    # The handler only takes note: a signal that comes while ranks are being started must reach the later ones, too.
    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    previous = {number: signal.signal(number, note) for number in listened_to()}
    try:
        for rank in range(ranks):
            of_rank = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(command, env=environment | of_rank))
        return _wait(processes, signals)
    finally:
        end(processes)
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_with_launcher() -> None:
    """Let this rank get SIGTERM if the process that has started it is killed (on Linux)."""
    if sys.platform == "linux" and os.environ.get(LAUNCHER) == str(os.getppid()):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(processes: Sequence[subprocess.Popen[bytes]], signals: list[int]) -> int:
    """Pass on the ``signals`` as they come; wait for all ranks, or for :data:`PATIENCE_S` after one has failed."""
    failure = 0
    deadline = float("inf")
    while True:
        codes = [process.poll() for process in processes]
        # the first failure is the cause: ranks that lose another one fail after it, with codes that say less
        if not failure:
            failure = next(filter(None, codes), 0)
            if failure:
                deadline = time.monotonic() + PATIENCE_S
        if None not in codes or time.monotonic() >= deadline:
            return failure if failure >= 0 else 128 - failure
        while signals:
            number = signals.pop(0)
            for process in processes:
                process.send_signal(number)
        time.sleep(POLL_S)


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill the processes that still run, and all that they have started."""
    for process in processes:
        if process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                for member in (*parent.children(recursive=True), parent):
                    with suppress(psutil.NoSuchProcess):
                        member.kill()
            process.wait()


def free_port() -> int:
    """Find a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
