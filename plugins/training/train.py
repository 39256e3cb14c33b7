"""``uncollapse.train``: one run from its directory to its status, whatever happens on the way."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import torch

from ...core.compose.config import Source, compose, to_dict
from ...core.compose.experiment import Experiment
from ...core.console.streams import say
from ...core.errors import RESUME, RunError, UncollapseError
from ...core.files import make_directory, require_place
from ...core.registry import registry
from ...core.runs.directory import RunDirectory, build_manifest
from ...core.runs.repair import mend, repair
from ...core.runs.sources import record_attempt
from ...core.runs.status import Status
from ..rollout.time_limit import last_words
from .assemble import check_models
from .memory.fitting import Request, require
from .memory.out_of_memory import out_of_memory
from .processes.ranks import gpu_names, start_ranks
from .processes.stop import StopRequest, stop_request
from .prompts import require_rooms
from .session import Outcome, Session

__all__ = ["Outcome", "train"]

WAIT_S = 30.0
"""How long to wait for a process that still holds the run directory."""


def train(
    experiment: Source, run_dir: str | Path, resume: bool = False, *, callbacks: Sequence[object] = ()
) -> Outcome:
    """Train an experiment (composed, or anything that :func:`compose` takes) in ``run_dir``.

    Start it on every rank alike (under a launcher that sets RANK and WORLD_SIZE); rank 0 writes the run directory.

    Args:
        resume: continue the run that is in ``run_dir``, from its last good checkpoint.
        callbacks: objects with methods marked by ``hookimpl``, named as the runtime hooks (``step_finished``,
            ``rollouts_collected``, ...). They are called on rank 0; what they raise ends the run.

    Raises:
        RequestError: the experiment cannot run or cannot fit the GPU, a prompt of its data set leaves no room for a
            turn, or ``run_dir`` holds another experiment.
        UncollapseError: the run failed; its status says so and earlier checkpoints are intact.
    """
    if not isinstance(experiment, Experiment):
        experiment = compose(experiment)
    ranks = start_ranks()
    if ranks.device.type == "cuda" and experiment.trainer.backend.name == "deepspeed":
        memory = torch.cuda.get_device_properties(ranks.device).total_memory
        require(Request(experiment, ranks.size), memory, certain=True)
    path = Path(run_dir)
    with ExitStack() as held:
        run = refusal = None
        if ranks.first:
            try:
                if not resume:  # a refusal leaves no directory behind
                    require_place(path)
                    check_models(experiment, ranks)
                    require_rooms(experiment)
                held.enter_context(_hold(path, resume))
                run = open_run(experiment, path, resume)
                if resume and not run.has_ended():
                    require_rooms(experiment)
            except UncollapseError as error:
                refusal = error
        if refusal := ranks.broadcast(refusal):
            raise refusal
        if ended := ranks.broadcast(_ended(run) if run and resume else None):
            return ended
        session = Session(experiment, ranks, run, path, callbacks)
        return _train(session, ranks.broadcast(run.latest() if run and resume else None))


def _hold(path: Path, resume: bool) -> AbstractContextManager[None]:
    """The lock of the run directory; the process that had it may be dying."""
    if not resume:
        make_directory(path)
    run = RunDirectory(path)
    if resume and not run.status_file.exists():  # which may have to say what is lost
        run = RunDirectory.open(path)
    return run.hold(WAIT_S)


def _train(session: Session, checkpoint: Path | None) -> Outcome:
    ranks = session.ranks
    with stop_request(ranks.first) as stop:
        try:
            outcome = _run(session, checkpoint, stop)
        except KeyboardInterrupt:
            return Outcome(str(Status.INTERRUPTED), session.path, session.metrics)
        ranks.barrier()  # launchers end whoever is still at work once one has left with a code of its own
        return outcome


def _run(session: Session, checkpoint: Path | None, stop: StopRequest) -> Outcome:
    try:
        with last_words(session.fail):
            return session.run(checkpoint, stop)
    except KeyboardInterrupt:
        session.status = Status.INTERRUPTED
        stop.waits = "writing a checkpoint of the last finished step"
        session.keep()
        raise
    except BaseException as error:
        session.status = Status.FAILED
        session.error = _explained(error, session)
        stop.waits = "writing a checkpoint of the last finished step"
        session.keep()
        if session.error is error:
            raise
        raise session.error from error
    finally:
        stop.waits = "writing down how the run ended"
        session.close()


def _explained(error: BaseException, session: Session) -> BaseException:
    """The error with what a person can do about it, where that is known."""
    if isinstance(error, torch.OutOfMemoryError):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return out_of_memory(session.loop.stage if session.loop else "start", session.where)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        fix = f"free some space and continue with {RESUME}; earlier checkpoints are intact"
        return RunError(f"the disk is full: {error}", session.where, fix)
    if isinstance(error, OSError) and error.filename is not None:  # of the work, not of the request
        return RunError(f"{error.strerror}: {error.filename}", session.where)
    return error


def open_run(experiment: Experiment, path: Path, resume: bool) -> RunDirectory:
    """Create the run directory, or open it to resume; says which checkpoint is used and which ones are damaged."""
    config = to_dict(experiment)
    if not resume:
        run = RunDirectory.create(path, config, build_manifest(experiment, registry(), gpu_names()))
        run.remove_leftovers()
        return run
    for line in mend(path, config):
        _say(RunDirectory(path), line)
    run = RunDirectory.resume(path, config)
    if repaired := repair(run):
        _say(run, repaired)
    if not run.has_ended():
        record_attempt(run, build_manifest(experiment, registry(), gpu_names()))
    for broken, reason in run.broken_checkpoints():
        _say(run, f"checkpoint {broken.name} is damaged and is not used: {reason}")
    if ended := _ended(run):
        _say(run, f"nothing to resume: the run ended with {ended.status}")
    elif run.status().get("status") != Status.QUEUED:
        latest = run.latest()
        _say(run, f"resuming from {latest.name}" if latest else "resuming from the start: there is no whole checkpoint")
    return run


def _say(run: RunDirectory, text: str) -> None:
    """To whoever is watching, and to the log of the run."""
    say(text)
    run.log(text)


def _ended(run: RunDirectory) -> Outcome | None:
    """How a run that is to be resumed has ended for good already, if it has."""
    if not run.has_ended():
        return None
    record = run.status()
    return Outcome(record["status"], run.path, record.get("metrics", {}))
