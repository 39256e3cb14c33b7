"""``uncollapse.train`` makes one run, from its directory to its status, whatever happens on the way."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import torch

from ...core.compose.config import Source, compose
from ...core.compose.experiment import Experiment
from ...core.errors import RESUME, RequestError, RunError, UncollapseError
from ...core.files import make_directory, require_place
from ...core.runs.directory import RunDirectory
from ...core.runs.status import Status
from ..rollout.time_limit import last_words
from .assemble import check_models
from .memory.out_of_memory import out_of_memory
from .memory.own_place import require_memory
from .open_run import create_run, ended, resume_run
from .processes.ranks import start_ranks
from .processes.stop import StopRequest, stop_request
from .prompts import require_rooms
from .session import Outcome, Session

__all__ = ["Outcome", "train"]

WAIT_S = 30.0
"""Seconds to wait for a process that still holds the run directory."""


def train(
    experiment: Source,
    run_dir: str | Path,
    resume: bool = False,
    *,
    steps: int | None = None,
    overrule: bool = False,
    callbacks: Sequence[object] = (),
) -> Outcome:
    """Train an experiment (composed, or anything that :func:`compose` takes) in ``run_dir``.

    Every rank calls it with the same arguments (under a launcher that sets RANK and WORLD_SIZE); rank 0 writes the run
    directory.

    Args:
        resume: whether the run that is in ``run_dir`` goes on from its last good checkpoint.
        steps: training steps of the run, in place of those of the experiment. A run that is resumed goes on to this
            step, also one that has ended before; it must have done fewer.
        overrule: whether a run that is resumed goes on although a detector has stopped it; that detector does not stop
            it again.
        callbacks: objects with methods marked by ``hookimpl``, named as the runtime hooks (``step_finished``,
            ``rollouts_collected``, ...). They are called on rank 0; what they raise ends the run.

    Raises:
        RequestError: the experiment cannot run or cannot fit the GPU, a prompt of its data set leaves no room for a
            turn, ``run_dir`` holds another experiment, or its run has done ``steps`` already.
        UncollapseError: the run failed; its status says so and earlier checkpoints are intact.
    """
    if overrule and not resume:
        raise RequestError("overrule is for a run that a detector has stopped", fix="give resume=True as well")
    if steps is not None:
        experiment = compose(experiment, {"trainer.steps": steps})
    elif not isinstance(experiment, Experiment):
        experiment = compose(experiment)
    ranks = start_ranks()
    if ranks.device.type == "cuda" and experiment.trainer.backend.name == "deepspeed":
        require_memory(experiment, ranks)
    path = Path(run_dir)
    with ExitStack() as held:
        run = refusal = None
        if ranks.first:
            try:
                if not resume:
                    # checked before the directory is made, so that a refusal leaves none behind
                    require_place(path)
                    check_models(experiment, ranks)
                    require_rooms(experiment)
                held.enter_context(_hold(path, resume))
                if resume:
                    run = resume_run(experiment, path, steps is not None, overrule)
                else:
                    run = create_run(experiment, path)
            except UncollapseError as error:
                refusal = error
        if refusal := ranks.broadcast(refusal):
            raise refusal
        if outcome := ranks.broadcast(ended(run) if run and resume else None):
            return outcome
        session = Session(experiment, ranks, run, path, callbacks)
        return _train(session, ranks.broadcast(run.latest() if run and resume else None))


def _hold(path: Path, resume: bool) -> AbstractContextManager[None]:
    """Lock the run directory, and wait for the lock, because the process that has it may be about to end."""
    if not resume:
        make_directory(path)
    run = RunDirectory(path)
    if resume and not run.status_file.exists():
        # open says what is missing
        run = RunDirectory.open(path)
    return run.hold(WAIT_S)


def _train(session: Session, checkpoint: Path | None) -> Outcome:
    ranks = session.ranks
    with stop_request(ranks.first) as stop:
        try:
            outcome = _run_session(session, checkpoint, stop)
        except KeyboardInterrupt:
            return Outcome(str(Status.INTERRUPTED), session.path, session.metrics)
        # launchers kill the other ranks as soon as one has ended with an exit code other than 0
        ranks.barrier()
        return outcome


def _run_session(session: Session, checkpoint: Path | None, stop: StopRequest) -> Outcome:
    """Run a session, keep a checkpoint if an error ends it, and close it in any case."""
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
    """Return an error that says what a person can do about it, where that is known."""
    if isinstance(error, torch.OutOfMemoryError):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return out_of_memory(session.loop.stage if session.loop else "start", session.where)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        fix = f"free some space and continue with {RESUME}; earlier checkpoints are intact"
        return RunError(f"the disk is full: {error}", session.where, fix)
    if isinstance(error, OSError) and error.filename is not None:
        # the request was right, and the work failed
        return RunError(f"{error.strerror}: {error.filename}", session.where)
    return error
