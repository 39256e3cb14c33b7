"""``uncollapse.train``: one run from its directory to its status, whatever happens on the way."""

from __future__ import annotations

import errno
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

import attrs
import torch

from ...core import plugins
from ...core.components import Verdict
from ...core.config import compose, to_dict
from ...core.errors import RunError, UncollapseError
from ...core.experiment import Experiment
from ...core.files import make_directory
from ...core.registry import registry
from ...core.runs import RunDirectory, build_manifest
from ..rollout.rows import transcript
from .assemble import assemble
from .checkpoint import load_checkpoint, save_checkpoint
from .fitting import Request, require
from .loop import Loop
from .ranks import Ranks, gpu_label, gpu_names, start_ranks
from .stop import StopRequest, stop_request

EXIT_CODES = {"success": 0, "failed": 1, "interrupted": 130}
WAIT_S = 30.0
"""How long to wait for a process that still holds the run directory."""


@attrs.frozen
class Outcome:
    """How a run ended."""

    status: str
    """``success``, ``stopped:<detector>`` or ``interrupted`` (a run that fails raises)."""
    path: Path
    metrics: dict[str, float]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES.get(self.status, 3)


def train(experiment: Any, run_dir: str | Path, resume: bool = False) -> Outcome:
    """Train an experiment (composed, or anything that :func:`compose` takes) in ``run_dir``.

    Start it on every rank alike (under a launcher that sets RANK and WORLD_SIZE); rank 0 writes the run directory.

    Args:
        resume: continue the run that is in ``run_dir``, from its last good checkpoint.

    Raises:
        RequestError: the experiment cannot run or cannot fit the GPU, or ``run_dir`` holds another one.
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
                held.enter_context(_hold(path, resume))
                run = open_run(experiment, path, resume)
            except UncollapseError as error:
                refusal = error
        if refusal := ranks.broadcast(refusal):
            raise refusal
        if ended := ranks.broadcast(_ended(run) if run and resume else None):
            return ended
        return _train(experiment, ranks, run, path, ranks.broadcast(run.latest() if run and resume else None))


def _hold(path: Path, resume: bool) -> AbstractContextManager[None]:
    """The lock of the run directory; the process that had it may be dying."""
    if not resume:
        make_directory(path)
    return (RunDirectory.open(path) if resume else RunDirectory(path)).hold(WAIT_S)


def _train(
    experiment: Experiment, ranks: Ranks, run: RunDirectory | None, path: Path, checkpoint: Path | None
) -> Outcome:
    session = Session(experiment, ranks, run)
    with stop_request(ranks.first) as stop:
        try:
            outcome = _run(session, checkpoint, stop)
        except KeyboardInterrupt:
            return Outcome("interrupted", path, session.metrics)
        ranks.barrier()  # launchers end whoever is still at work once one has left with a code of its own
        return outcome


def _run(session: Session, checkpoint: Path | None, stop: StopRequest) -> Outcome:
    try:
        return session.run(checkpoint, stop)
    except KeyboardInterrupt:
        session.status = "interrupted"
        raise
    except BaseException as error:
        session.status = "failed"
        session.error = error
        if isinstance(error, torch.OutOfMemoryError):
            session.error = _out_of_memory(session)
            raise session.error from error
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            fix = "free some space and continue with --resume; earlier checkpoints are intact"
            raise RunError("the disk is full", session.where, fix) from error
        raise
    finally:
        stop.waits = "writing down how the run ended"
        session.close()


LOWER = {
    "sync": "rollout.engine: gpu_memory_utilization",
    "rollout": "rollout.engine: gpu_memory_utilization (vllm) or batch (hf)",
    "validation": "rollout.engine: gpu_memory_utilization (vllm) or batch (hf)",
    "score": "trainer.score_batch or trainer.token_budget",
    "reference": "trainer.score_batch or trainer.token_budget",
    "detectors": "trainer.score_batch or trainer.token_budget, or take the detector out of collapse",
    "values": "trainer.score_batch or trainer.token_budget",
    "update_critic": "trainer.micro_batch or trainer.token_budget, or set model.gradient_checkpointing",
    "update_actor": "trainer.micro_batch or trainer.token_budget, or set model.gradient_checkpointing",
}
"""Stage -> what to lower where it runs out of memory."""


def _out_of_memory(session: Session) -> RunError:
    stage = session.loop.stage if session.loop else "start"
    what = LOWER.get(stage, "the model, or set model.lora, trainer.offload or a higher trainer.zero_stage")
    return RunError(
        f"the GPU is out of memory (stage {stage})",
        session.where,
        f"lower {what}; `uncollapse doctor -e` says what fits; continue with --resume",
    )


def open_run(experiment: Experiment, path: Path, resume: bool) -> RunDirectory:
    """Create the run directory, or open it to resume; says which checkpoint is used and which ones are damaged."""
    if not resume:
        return RunDirectory.create(path, to_dict(experiment), build_manifest(experiment, registry(), gpu_names()))
    run = RunDirectory.resume(path, to_dict(experiment))
    if not run.has_ended():
        run.record_attempt(build_manifest(experiment, registry(), gpu_names()))
    for broken, reason in run.broken_checkpoints():
        _say(run, f"checkpoint {broken.name} is damaged and is not used: {reason}")
    latest = run.latest()
    if ended := _ended(run):
        _say(run, f"nothing to resume: the run ended with {ended.status}")
    elif run.status().get("status") != "queued":
        _say(run, f"resuming from {latest.name}" if latest else "resuming from the start: there is no whole checkpoint")
    return run


def _say(run: RunDirectory, text: str) -> None:
    """To whoever is watching, and to the log of the run."""
    sys.stderr.write(f"{text}\n")
    run.log(text)


def _ended(run: RunDirectory) -> Outcome | None:
    """How a run that is to be resumed has ended for good already, if it has."""
    if not run.has_ended():
        return None
    record = run.status()
    return Outcome(record["status"], run.path, record.get("metrics", {}))


class Session:
    """One process' part in a run: the loop, the hooks and, on rank 0, the run directory."""

    def __init__(self, experiment: Experiment, ranks: Ranks, run: RunDirectory | None) -> None:
        self.experiment, self.ranks, self.directory = experiment, ranks, run
        self.status = "running"
        self.error: BaseException | None = None
        self.metrics: dict[str, float] = {}
        self.validation: dict[str, float] = {}
        """Of the last validation."""
        self.loop: Loop | None = None
        self.hooks: Any = None
        if run:
            attempts = run.status().get("attempts", 0) + 1
            run.set_status("running", verdict=None, attempts=attempts, gpu=gpu_label(gpu_names(), ranks.size))

    @property
    def where(self) -> str:
        """For messages."""
        return str(self.directory.path if self.directory else "this rank")

    def run(self, checkpoint: Path | None, stop: StopRequest) -> Outcome:
        """Train to the last step, to a verdict, or to the end of the step in which ``stop`` is asked for."""
        experiment, started = self.experiment, time.perf_counter()
        self.loop = loop = Loop(experiment, assemble(experiment, self.ranks, checkpoint), self.ranks)
        if checkpoint:
            self.metrics = load_checkpoint(loop, checkpoint)
        if self.directory:
            self.directory.set_status("running", step=loop.step if checkpoint else None)
            self.directory.rewind(checkpoint)
            started -= self.directory.timings().get("total", 0.0)
        self._start_hooks(loop.step)
        stop.waits = "finishing the step, then writing a checkpoint"
        steps, validation = experiment.trainer.steps, experiment.validation
        if loop.step >= steps:  # it failed between its last checkpoint and its end
            self.status = "success"
        if loop.step == 0 and validation.before_train and validation.every:
            metrics = loop.validate()
            self._call("validation_finished", step=0, metrics=metrics)
            self._finish_step(metrics | loop.timings(), started)
        while loop.step < steps and self.status == "running":
            step_started = time.perf_counter()
            metrics = loop.train_step()
            last = loop.step == steps
            if validation.every and (last or loop.step % validation.every == 0):
                metrics |= loop.validate()
                self._call("validation_finished", step=loop.step, metrics=metrics)
            metrics |= loop.timings() | {"timing_s/step": time.perf_counter() - step_started}
            self.metrics = metrics = self.ranks.broadcast(metrics)
            verdict = self._verdict(loop.judge(metrics))
            if verdict is not None:
                self.status = f"stopped:{verdict.detector}"
            elif last:
                self.status = "success"
            elif self.ranks.broadcast(stop.asked):
                self.status = "interrupted"
            self._checkpoint(metrics)
            self._finish_step(metrics, started)
        return Outcome(self.status, self.directory.path if self.directory else Path(), self.metrics)

    def close(self) -> None:
        """Give engine and memory back and write how the run ended."""
        try:
            if self.loop is not None:
                self.loop.parts.close()
        finally:
            self._record_end()

    def _record_end(self) -> None:
        if self.directory is None:
            return
        error = str(self.error) if self.error else None
        self.directory.set_status(
            self.status, error=error, metrics=self.validation | self.metrics, timings=self._timings()
        )
        if self.error is not None:
            with suppress(OSError):  # the status is what counts, and the disk may be full
                self.directory.log("".join(traceback.format_exception(self.error)))
        self._call("run_finished", status=self.status, metrics=self.metrics)

    def _timings(self) -> dict[str, float]:
        """Those of all processes of the run; the wall time that a scheduler measured stays."""
        assert self.directory is not None
        return {**self.directory.status().get("timings", {}), **self.directory.timings()}

    def _start_hooks(self, step: int) -> None:
        if self.directory is None:
            return
        named = [tracker.component for tracker in self.experiment.trackers]
        if all(tracker.name != "jsonl" for tracker in self.experiment.trackers):
            named.insert(0, registry().create("tracker", "jsonl"))
        self.hooks = registry().run_manager([tracker.start(self.directory) for tracker in named])
        self._call("run_started", experiment=self.experiment, step=step)

    def _finish_step(self, metrics: dict[str, float], started: float) -> None:
        assert self.loop is not None
        step, trainer = self.loop.step, self.experiment.trainer
        metrics = metrics | {"timing_s/total": time.perf_counter() - started}
        self.metrics = metrics
        if self.directory and step and trainer.log_rollouts and step % trainer.log_rollouts_every == 0:
            shown = self.loop.episodes[:: max(1, len(self.loop.episodes) // trainer.log_rollouts)]
            self.directory.write_rollouts(step, [transcript(e) for e in shown[: trainer.log_rollouts]])
        self._call("step_finished", step=step, metrics=metrics)
        self.validation.update({key: value for key, value in metrics.items() if key.startswith("validation/")})
        if self.directory:
            self.directory.set_status("running", step=step, metrics=self.validation | metrics)

    def _verdict(self, verdicts: Sequence[Verdict]) -> Verdict | None:
        """Record what the detectors say, each of them once; the verdict that stops the run, if there is one."""
        assert self.loop is not None
        stopping = next((verdict for verdict in verdicts if verdict.stop), None)
        if self.directory is None:
            return stopping
        spoken = list(self.directory.status().get("verdicts", []))
        new = [verdict for verdict in verdicts if verdict.detector not in {item["detector"] for item in spoken}]
        for verdict in new:
            what = "stopped by" if verdict is stopping else "noticed by"
            self.directory.log(f"{what} {verdict.detector} at step {verdict.step}: {verdict.reason}")
        broken = self.loop.parts.detectors.broken
        for name in broken.keys() - self.directory.status().get("broken_detectors", {}).keys():
            self.directory.log(f"the detector {name} is left out from here on: {broken[name]}")
        if new or broken or stopping:
            self.directory.set_status(
                "running",
                verdicts=[*spoken, *map(attrs.asdict, new)] or None,
                verdict=attrs.asdict(stopping) if stopping else None,
                broken_detectors=broken or None,
            )
        return stopping

    def _checkpoint(self, metrics: dict[str, float]) -> None:
        assert self.loop is not None
        trainer, step = self.experiment.trainer, self.loop.step
        periodic = trainer.save_every > 0 and step % trainer.save_every == 0
        ends = self.status != "running" and (trainer.save_last or self.status == "interrupted")
        if not periodic and not ends:
            return
        started = time.perf_counter()
        path = save_checkpoint(self.loop, self.directory, metrics)
        metrics["timing_s/checkpoint"] = time.perf_counter() - started
        if path:
            self._call("checkpoint_saved", step=step, path=path)

    def _call(self, hook: str, **arguments: Any) -> None:
        if self.hooks is not None:
            plugins.call(self.hooks, hook, run=self.directory, **arguments)
