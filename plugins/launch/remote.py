"""A cluster starts a process on a machine that it has chosen, which runs one job there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import attrs

from .job import Job
from .processes import Processes, stop
from .queue import run_queue

INTERRUPTED = 130
KILLED = 137


def run_here(job: Job, environment: Mapping[str, str], directory: str, grace_s: float) -> int:
    """Run the job in ``directory`` and return its exit code; 130 if this process was told to stop by SIGINT or SIGTERM.

    The job is told as the launcher ``local`` tells its jobs, and ends with this process, even if that is killed.
    """
    os.chdir(directory)
    processes = Processes()
    try:
        codes = run_queue(
            [job],
            [environment],
            start=processes.start,
            stop=lambda running, hurry: stop(running, grace_s, hurry),
        )
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        processes.close()
    return codes[0]


def with_whole_path(job: Job) -> Job:
    """Return the job with a log that is the same file wherever it runs."""
    return attrs.evolve(job, log=Path(job.log).absolute())
