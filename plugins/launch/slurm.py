"""The launcher ``slurm`` submits the jobs of a sweep to Slurm, through submitit."""

from __future__ import annotations

import os
import re
import signal
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ...core.components import Launcher
from ...core.errors import MissingExtraError, RequestError
from .job import Job
from .queue import run_queue
from .remote import KILLED, run_here, with_whole_path
from .slots import check_count, check_seconds, check_text, job_environment

POLL_S = 0.5
NODE_GRACE_S = 20.0
"""Seconds between two signals to a job on its node; Slurm itself kills 30 s after it has told a job to stop."""


@attrs.frozen
class Slurm(Launcher):
    """Submit every job to Slurm, with ``gpus_per_job`` GPUs and ``cpus_per_job`` cores on one node.

    Every node must see the same files and the same Python environment. A job that nears its time limit is interrupted,
    as by Ctrl-C, and ends with 130. Interrupting the launcher cancels its jobs. A launcher that is killed cannot: its
    jobs are Slurm's, look for them with ``squeue``.
    """

    cluster: str = attrs.field(default="slurm", validator=check_text)
    """The executor of submitit: ``slurm``; ``local`` and ``debug`` run the jobs here, to try it out."""
    gpus_per_job: int = attrs.field(default=1, validator=attrs.validators.ge(0))
    """GPUs of a job; 0 asks for none."""
    cpus_per_job: int = attrs.field(default=16, validator=check_count)
    """Cores of a job, and threads of its numeric libraries."""
    time_min: int = attrs.field(default=1440, validator=check_count)
    """The time limit of a job in minutes."""
    partition: str | None = attrs.field(default=None, validator=check_text)
    """Partition; ``None``: the default one of the cluster."""
    max_parallel: int | None = attrs.field(default=None, validator=attrs.validators.optional(check_count))
    """Number of jobs that are queued or run, at most; ``None``: all are submitted at once."""
    cooldown_s: float = attrs.field(default=0.0, validator=check_seconds)
    """Seconds between the end of a job and the submission of the next one in its place."""
    folder: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """Directory of submitit's files, seen by every node; ``None``: ``.submitit`` above the logs."""
    parameters: Mapping[str, Any] = attrs.field(factory=dict)
    """Further parameters of submitit's AutoExecutor, e.g. ``{slurm_account: lab}``; they win over ours."""
    grace_s: float = attrs.field(default=60.0, validator=check_seconds)
    """Seconds to wait for cancelled jobs to end."""

    def describe(self) -> list[str]:
        """Return one line: what every job asks for. Raises MissingExtraError without submitit."""
        _library()
        words = [f"{self.cluster}: {self.gpus_per_job} GPUs, {self.cpus_per_job} CPUs, {self.time_min} min per job"]
        if self.partition:
            words.append(f"partition {self.partition}")
        words.append(f"at most {self.max_parallel} at a time" if self.max_parallel else "all submitted at once")
        return [", ".join(words)]

    def run(
        self,
        jobs: Sequence[Job],
        on_start: Callable[[Job], None] | None = None,
        on_finish: Callable[[Job, int], Job | None] | None = None,
    ) -> list[int]:
        """Run the jobs as :meth:`.local.Local.run` does, and return their exit codes.

        ``on_start(job)`` is called soon after it has begun, and 137 is the code of a job that Slurm has ended without
        a word.

        Raises:
            RequestError: there is no such cluster, it does not know a parameter, or Slurm refuses a job.
            KeyboardInterrupt: the launcher was interrupted or terminated; its jobs were cancelled.
        """
        if not jobs:
            return []
        folder = self.folder or Path(os.path.commonpath([job.log.absolute().parent for job in jobs])) / ".submitit"
        executor, directory = self._executor(folder.absolute()), str(Path.cwd())

        def start(job: Job, slot: int) -> _Submitted:
            executor.update_parameters(name=re.sub(r"[^\w.-]", "_", job.name))
            # what Slurm says of a job's state is old by seconds: the job itself leaves a file when it begins
            mark = folder.absolute() / f"{uuid.uuid4().hex}.began"
            arguments = (with_whole_path(job), job_environment(self.cpus_per_job), directory, NODE_GRACE_S, mark)
            begin = (lambda: on_start(job)) if on_start else lambda: None
            return _Submitted(_submit(executor, arguments), mark, begin)

        def stop(submitted: list[_Submitted], hurry: Callable[[], bool]) -> None:
            for each in submitted:
                each.job.cancel(check=False)
            deadline = time.monotonic() + self.grace_s
            while time.monotonic() < deadline and not hurry() and not all(each.over() for each in submitted):
                time.sleep(POLL_S)

        return run_queue(
            jobs, range(min(self.max_parallel or len(jobs), len(jobs))), start, stop, on_finish, self.cooldown_s, POLL_S
        )

    def _executor(self, folder: Path) -> Any:
        submitit = _library()
        settings = {
            "timeout_min": self.time_min,
            "cpus_per_task": self.cpus_per_job,
            "gpus_per_node": self.gpus_per_job,
            "tasks_per_node": 1,
            "nodes": 1,
            "slurm_partition": self.partition,
            **self.parameters,
        }
        try:
            executor = submitit.AutoExecutor(folder, cluster=self.cluster)
            executor.update_parameters(**settings)
        except (NameError, ValueError, RuntimeError, AssertionError) as error:
            where = f"cluster {self.cluster}"
            fix = "uncollapse show launcher slurm; is there an sbatch?"
            raise RequestError(f"nothing can be submitted: {error}", where, fix) from error
        return executor


def _library() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise MissingExtraError(
            "the launcher slurm needs the library submitit", str(error), "pip install 'uncollapse[slurm]'"
        ) from error
    return submitit


def _submit(executor: Any, arguments: Sequence[Any]) -> Any:
    from submitit.core.utils import FailedJobError

    try:
        return executor.submit(_task, *arguments)
    except FailedJobError as error:
        raise RequestError(f"Slurm has refused the job: {str(error).strip()}", arguments[0].name) from error


class _Submitted:
    """A job that Slurm has been given."""

    def __init__(self, job: Any, mark: Path, on_start: Callable[[], None]) -> None:
        self.job, self._mark = job, mark
        self._on_start = on_start
        self._began = False

    def poll(self) -> int | None:
        if not self._began and (self._mark.exists() or self.job.state == "QUEUED"):  # debug: it runs when it is asked
            self._began = True
            self._on_start()
        if not self.job.done():
            return None
        if not self._began:
            self._began = True
            self._on_start()
        self._mark.unlink(missing_ok=True)
        return KILLED if self.job.exception() else self.job.result()

    def over(self) -> bool:
        return self.job.cancelled if self.job.state == "QUEUED" else self.job.done(force_check=True)


def _task(job: Job, environment: dict[str, str], directory: str, grace_s: float, mark: Path) -> int:
    """Run a job on the node. The signal before the time limit becomes one to stop."""
    mark.touch()
    signal.signal(signal.SIGUSR2, lambda number, frame: signal.raise_signal(signal.SIGTERM))
    return run_here(job, environment, directory, grace_s)
