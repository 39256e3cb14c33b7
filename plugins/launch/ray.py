"""The launcher ``ray`` runs the jobs of a sweep as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from ...core.components import Launcher
from ...core.errors import MissingExtraError, RequestError, in_python
from .job import Job
from .queue import run_queue
from .remote import KILLED, run_here, with_whole_path
from .slots import check_count, check_seconds, check_text, job_environment, visible_gpus

POLL_S = 0.1
OBJECT_STORE_BYTES = 80 * 2**20  # nothing but exit codes passes through it


@attrs.frozen
class Ray(Launcher):
    """Run jobs as Ray tasks that hold ``gpus_per_job`` GPUs and ``cpus_per_job`` cores each; Ray chooses the node.

    Every node must see the same files and the same Python environment. A job sees the GPUs that Ray has given it (on a
    cluster without any, jobs that ask for one run on the CPU). Interrupting the launcher interrupts the jobs as
    ``local`` does. No job outlives the launcher or its Ray worker, even if they are killed.
    """

    address: str | None = attrs.field(default=None, validator=check_text)
    """Address of a running cluster (``auto`` finds one); ``None`` starts Ray on this machine, with all that it has."""
    gpus_per_job: int = attrs.field(default=1, validator=check_count)
    """GPUs that a job reserves."""
    per_gpu: int = attrs.field(default=1, validator=check_count)
    """Jobs that share a GPU, each of which reserves a part of it; only where ``gpus_per_job`` is 1."""
    cpus_per_job: int = attrs.field(default=16, validator=check_count)
    """Cores that a job reserves, and threads of its numeric libraries."""
    max_parallel: int | None = attrs.field(default=None, validator=attrs.validators.optional(check_count))
    """Number of jobs at a time, at most; ``None``: as many as the cluster holds."""
    cooldown_s: float = attrs.field(default=0.0, validator=check_seconds)
    """Seconds that the GPUs and cores of a job rest after it before they are given to the next one."""
    grace_s: float = attrs.field(default=20.0, validator=check_seconds)
    """Seconds between two signals to a job that does not end when it is interrupted."""

    def describe(self) -> list[str]:
        """Return one line per node that can take jobs. Raises RequestError as :meth:`run` does."""
        with self._cluster() as ray:
            gpus = self._gpus(ray)
            return [
                f"node {node['NodeManagerAddress']}: {_text(resources)}, {self._fitting(resources, gpus)} at a time"
                for node, resources in _nodes(ray)
                if self._fitting(resources, gpus)
            ]

    def run(
        self,
        jobs: Sequence[Job],
        on_start: Callable[[Job], None] | None = None,
        on_finish: Callable[[Job, int], Job | None] | None = None,
    ) -> list[int]:
        """Run the jobs as :meth:`.local.Local.run` does, and return their exit codes.

        ``on_start(job)`` is called soon after it has begun, and 137 is the code of a job whose Ray worker or node died.

        Raises:
            RequestError: there is no such cluster, or no node of it holds a job; nothing was started.
            KeyboardInterrupt: the launcher was interrupted or terminated; all jobs have ended.
        """
        with self._cluster() as ray:
            options = {"num_gpus": self._part(self._gpus(ray)), "num_cpus": self.cpus_per_job, "max_retries": 0}
            task = ray.remote(**options)(_task)
            environment, directory = job_environment(self.cpus_per_job), str(Path.cwd())

            def start(job: Job, slot: int) -> _Task:
                results = task.remote(with_whole_path(job), environment, directory, self.grace_s, self.cooldown_s)
                return _Task(ray, results, lambda: on_start(job) if on_start else None)

            def stop(tasks: list[_Task], hurry: Callable[[], bool]) -> None:
                _cancel(ray, tasks)
                while not all(task.over() for task in tasks):
                    if hurry():
                        _cancel(ray, tasks)
                    time.sleep(POLL_S)

            slots = range(min(self.max_parallel or len(jobs), len(jobs)))
            return run_queue(jobs, slots, start, stop, on_finish, self.cooldown_s, POLL_S)

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        """Connect the library: to the cluster that this process uses already, or to ours as long as this lasts."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError(
                "the launcher ray needs the library ray", str(error), "pip install 'uncollapse[ray]'"
            ) from error
        if ray.is_initialized():
            yield ray
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        try:
            ray.init(address=self.address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"address {self.address}"
            raise RequestError(f"there is no Ray to connect to: {error}", where, "ray status") from error
        try:
            yield ray
        finally:
            ray.shutdown()

    def gpus_here(self) -> list[str] | None:
        """Return the ids of this machine's GPUs where Ray is started here; of a cluster nothing is known before."""
        return visible_gpus() if self.address is None else None

    def _gpus(self, ray: Any) -> int:
        """Say how many GPUs a task asks for. Raises RequestError if no node holds a job."""
        if self.per_gpu > 1 and self.gpus_per_job > 1:
            what = f"Ray shares out single GPUs, and {self.per_gpu} jobs are to share {self.gpus_per_job} each"
            raise RequestError(what, "launcher ray", "ask for 1 GPU per job, or take the launcher local")
        resources = [resources for _, resources in _nodes(ray)]
        most_gpus = max((int(each.get("GPU", 0)) for each in resources), default=0)
        most_cpus = max((int(each.get("CPU", 0)) for each in resources), default=0)
        gpus = self.gpus_per_job if most_gpus or self.gpus_per_job > 1 else 0
        where = "; ".join(map(_text, resources)) or "no nodes"
        if self.cpus_per_job > most_cpus:
            what = f"a job asks for {self.cpus_per_job} CPUs, and no node of the Ray cluster has more than {most_cpus}"
            raise RequestError(
                what, where, f"ask for at most {in_python(f'--ray-num-cpus {most_cpus}', f'cpus_per_job={most_cpus}')}"
            )
        if gpus > most_gpus:
            what = f"a job asks for {gpus} GPUs, and no node of the Ray cluster has more than {most_gpus}"
            raise RequestError(
                what, where, in_python(f"--gpus-per-exp {max(1, most_gpus)}", f"gpus_per_job={max(1, most_gpus)}")
            )
        if not any(self._fitting(each, gpus) for each in resources):
            what = f"no node of the Ray cluster has {gpus} GPUs and {self.cpus_per_job} CPUs"
            raise RequestError(
                what,
                where,
                f"ask for fewer: {in_python('--gpus-per-exp, --ray-num-cpus', 'gpus_per_job, cpus_per_job')}",
            )
        return gpus

    def _fitting(self, resources: dict[str, float], gpus: int) -> int:
        """Say how many jobs a node holds at a time."""
        by_cpus = int(resources.get("CPU", 0) // self.cpus_per_job)
        return min(by_cpus, self.per_gpu * int(resources.get("GPU", 0) // gpus)) if gpus else by_cpus

    def _part(self, gpus: int) -> float:
        """Return what a task reserves of ``gpus`` GPUs, in the ten-thousandths that Ray counts in."""
        return gpus if self.per_gpu == 1 else gpus * (10_000 // self.per_gpu) / 10_000


class _Task:
    """A task that has been handed to Ray; it yields ``None`` when it begins, then its exit code."""

    def __init__(self, ray: Any, results: Any, on_start: Callable[[], None]) -> None:
        self._ray, self.results = ray, results
        self._on_start = on_start

    def poll(self) -> int | None:
        while self._ray.wait([self.results], timeout=0)[0]:
            try:
                code = self._ray.get(next(self.results))
            except (StopIteration, self._ray.exceptions.RayError):
                return KILLED
            if code is not None:
                return code
            self._on_start()
        return None

    def over(self) -> bool:
        return bool(self._ray.wait([self.results.completed()], timeout=0)[0])


def _task(job: Job, environment: dict[str, str], directory: str, grace_s: float, cooldown_s: float) -> Iterator[Any]:
    """Run a job in a Ray worker. Cancelling it is a KeyboardInterrupt in there."""
    yield None
    yield run_here(job, environment, directory, grace_s)
    time.sleep(cooldown_s)


def _cancel(ray: Any, tasks: list[_Task]) -> None:
    for task in tasks:
        ray.cancel(task.results)


def _nodes(ray: Any) -> list[tuple[dict[str, Any], dict[str, float]]]:
    return [(node, node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _text(resources: dict[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
