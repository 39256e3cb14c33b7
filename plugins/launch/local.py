"""The launcher ``local`` runs the jobs of a sweep on the slots of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import attrs

from ...core.components import Launcher
from .job import Job
from .processes import Process, Processes, stop
from .queue import run_queue
from .slots import Slot, check_count, check_seconds, make_slots, read_ids


def _check_slots(instance: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if value != "auto":
        check_count(instance, attribute, value)


@attrs.frozen
class Local(Launcher):
    """Run jobs on the slots of this machine from one queue: a free slot never waits while a job is queued.

    Each job is one process group with its output in its own log. Where there are GPUs, consecutive ones form slots of
    ``gpus_per_job``, and a job sees those of its slot alone (``per_gpu`` jobs share them, or more slots than that in
    turn). Numeric libraries get ``cores // slots`` threads that sleep while they wait, so that jobs side by side do not
    slow each other down. Interrupting or terminating the launcher sends every job SIGINT, then SIGTERM, then SIGKILL,
    ``grace_s`` seconds apart (interrupting again moves on at once). No process of a job outlives the launcher, even if
    that is killed. Where no GPU is used, jobs that say what to preload are forks of one process that has imported it.
    """

    slots: int | Literal["auto"] = attrs.field(default="auto", validator=_check_slots)
    """Number of jobs at a time; ``auto`` is one per ``gpus_per_job`` GPUs, or one per core where there is no GPU."""
    gpus: tuple[str, ...] | None = attrs.field(default=None, converter=read_ids)
    """Device ids, also as text: ``"0,1"``; ``None``: those of CUDA_VISIBLE_DEVICES, or all."""
    gpus_per_job: int = attrs.field(default=1, validator=check_count)
    """GPUs of a slot, and so of a job."""
    per_gpu: int = attrs.field(default=1, validator=check_count)
    """Jobs at a time on each GPU, which they share; a sweep gives each of them an equal part of the memory."""
    max_parallel: int | None = attrs.field(default=None, validator=attrs.validators.optional(check_count))
    """Number of jobs at a time, at most."""
    cooldown_s: float = attrs.field(default=0.0, validator=check_seconds)
    """Seconds that a slot rests after a job before it takes the next one."""
    grace_s: float = attrs.field(default=20.0, validator=check_seconds)
    """Seconds between two signals to a job that does not end; the first is enough to finish a training step."""

    def describe(self) -> list[str]:
        """Return one line per slot. Raises RequestError as :meth:`run` does."""
        return [f"slot {index}: {slot}" for index, slot in enumerate(self._slots())]

    def gpus_here(self) -> list[str]:
        """Return the ids of the GPUs of all slots. Raises RequestError as :meth:`run` does."""
        return list(dict.fromkeys(gpu for slot in self._slots() for gpu in slot.gpus))

    def run(
        self,
        jobs: Sequence[Job],
        on_start: Callable[[Job], None] | None = None,
        on_finish: Callable[[Job, int], Job | None] | None = None,
    ) -> list[int]:
        """Run the jobs and return their exit codes: 128 + n for a death by signal n, 127 for what cannot be started.

        ``on_start(job)`` is called before its process starts. A job that ``on_finish(job, code)`` returns is queued at
        the end, and its code takes the place of the first one.

        Raises:
            RequestError: the GPUs are not there, or cannot be shared out; nothing was started.
            KeyboardInterrupt: the launcher was interrupted or terminated; all jobs have ended, and ``on_finish`` was
                not called for those that still ran.
        """
        slots = self._slots()
        processes = Processes(forking=not any(slot.gpus for slot in slots))

        def start(job: Job, slot: Slot) -> Process:
            if on_start:
                on_start(job)
            return processes.start(job, slot.environment)

        def end(running: list[Process], hurry: Callable[[], bool]) -> None:
            stop(running, self.grace_s, hurry)

        try:
            return run_queue(jobs, slots, start, end, on_finish, self.cooldown_s, admit=self.admits)
        finally:
            processes.close()

    def admits(self, job: Job) -> bool:
        """Say whether a job that is next may begin; launchers that derive from this one may refuse it."""
        return True

    def _slots(self) -> list[Slot]:
        return make_slots(self.slots, self.gpus, self.gpus_per_job, self.max_parallel, self.per_gpu)
