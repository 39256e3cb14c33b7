"""Jobs run as process groups, which are started, polled and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO

from ...core.files import encode
from .exit_codes import CANNOT_START
from .fork_server import ForkServer
from .guardian import Guardian, exists, signal_group
from .job import Job
from .queue import POLL_S


class Process:
    """A job that runs as the leader of a process group in a session of its own, its output in its log."""

    def __init__(self, leader: int | None, code: Callable[[], int | None], guardian: Guardian) -> None:
        self._leader, self._code = leader, code
        self._guardian = guardian

    def poll(self) -> int | None:
        """Return the exit code once it has ended: 128 + n for a death by signal n, 127 for what cannot be started.

        What it has left behind in its group ends with it.
        """
        code = self._code()
        if code is None:
            return None
        self.signal(signal.SIGKILL)
        if self._leader is not None:
            self._guardian.forget(self._leader)
        return code if code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """Signal the whole group."""
        if self._leader is not None:
            signal_group(self._leader, number)

    def alive(self) -> bool:
        """Say whether any process of the group is there."""
        return self._code() is None or (self._leader is not None and exists(self._leader))


class Processes:
    """Starts jobs; those that may share their imports as forks of one process, if ``forking``."""

    def __init__(self, forking: bool = False) -> None:
        self._guardian, self._forking = Guardian(), forking
        self._servers: dict[tuple[str, ...], tuple[ForkServer, Mapping[str, str]]] = {}

    def close(self) -> None:
        for server, _ in self._servers.values():
            server.close()
        self._guardian.close()

    def start(self, job: Job, environment: Mapping[str, str]) -> Process:
        # a process that has trained holds a rank, which would make a job believe that a launcher has started it
        inherited = {
            name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        }
        environment = {**inherited, **environment, **job.env}
        try:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with job.log.open("ab") as log:
                if self._forking and job.preload and (forked := self._fork(job, environment, log)):
                    return forked
                process = subprocess.Popen(
                    job.argv,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=self._introduce,
                )
        except OSError as error:
            _cannot_start(job, error)
            return Process(None, lambda: CANNOT_START, self._guardian)
        return Process(process.pid, process.poll, self._guardian)

    def _introduce(self) -> None:
        """Prepare the new process before it becomes the job."""
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a Ray worker blocks SIGINT
        self._guardian.watch_me()

    def _fork(self, job: Job, environment: Mapping[str, str], log: BinaryIO) -> Process | None:
        """Fork a process for the job; ``None`` where it needs one of its own."""
        if len(job.argv) < 3 or job.argv[:2] != (sys.executable, "-m"):
            return None
        if job.preload not in self._servers:
            self._servers[job.preload] = ForkServer(job.preload, environment), environment
        server, imported_in = self._servers[job.preload]
        if not server.usable or environment != imported_in:  # libraries read their environment when they are imported
            return None
        pid = server.start(job.argv[2], job.argv[3:], log.fileno())
        if pid is None:
            return None
        self._guardian.watch(pid)
        return Process(pid, lambda: server.poll(pid), self._guardian)


def _cannot_start(job: Job, error: OSError) -> None:
    """Write the reason into the log of the job, if that can be written."""
    message = f"cannot start {job.name}: {error}\n"
    sys.stderr.write(message)
    with suppress(OSError), job.log.open("ab") as log:
        log.write(encode(message))


def stop(processes: Sequence[Process], grace_s: float, hurry: Callable[[], bool]) -> None:
    """Send SIGINT, then SIGTERM, then SIGKILL, ``grace_s`` apart or until ``hurry()``, until all have ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            process.signal(number)
        deadline = time.monotonic() + grace_s
        while any(process.alive() for process in processes):
            if time.monotonic() > deadline or hurry():
                break
            time.sleep(POLL_S)
    for process in processes:
        process.poll()
