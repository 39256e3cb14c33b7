"""A session is one process' part in a run, from its first step to the status at its end."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from ...core.components import Rollouts
from ...core.compose.experiment import Experiment
from ...core.console.streams import say
from ...core.errors import RESUME
from ...core.runs.directory import RunDirectory
from ...core.runs.repair import rewind
from ...core.runs.status import Status, stopped_by
from ..rollout.transcript import lost_transcript, transcript
from .assemble import assemble
from .listeners import Listeners
from .processes.ranks import Ranks, gpu_label, gpu_names
from .processes.stop import StopRequest
from .step.finished_step import FinishedStep
from .step.loop import Loop
from .weights.checkpoint import load_checkpoint, save_checkpoint
from .weights.whole_state import WholeState


@attrs.frozen
class Outcome:
    """An outcome says how a run ended."""

    status: str
    """Status at the end: ``success``, ``stopped:<detector>`` or ``interrupted`` (a run that fails raises)."""
    path: Path
    """Run directory."""
    metrics: dict[str, float]
    """Metrics of the last step."""

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 0, 1, 130, or 3 if a detector stopped the run."""
        return {Status.SUCCESS: 0, Status.FAILED: 1, Status.INTERRUPTED: 130, Status.STOPPED: 3}[Status.of(self.status)]


class Session:
    """A session holds the loop, the listeners and, on rank 0, the run directory."""

    def __init__(
        self,
        experiment: Experiment,
        ranks: Ranks,
        run: RunDirectory | None,
        path: Path,
        callbacks: Sequence[object] = (),
    ) -> None:
        self.experiment = experiment
        self.ranks = ranks
        self.directory = run
        self.path = path
        self.callbacks = callbacks
        self.status: str = Status.RUNNING
        self.error: BaseException | None = None
        self.metrics: dict[str, float] = {}
        self.validation: dict[str, float] = {}
        """Metrics of the last validation."""
        self.loop: Loop | None = None
        self.listeners: Listeners | None = None
        self.whole: WholeState | None = None
        """Last state that a checkpoint could be written of."""
        self._started = time.perf_counter()
        self._hooks_s = 0.0
        """Seconds that trackers and hooks of plugins took since the record of the last step."""
        if run:
            # step 0 is the validation before training
            first = 0 if experiment.validation.before_train and experiment.validation.every else 1
            run.begin(first_step=first, error=None, gpu=gpu_label(gpu_names(), ranks.size))

    @property
    def where(self) -> str:
        """Place of the run, for messages."""
        return str(self.directory.path if self.directory else "this rank")

    def run(self, checkpoint: Path | None, stop: StopRequest) -> Outcome:
        """Train to the last step, to a verdict, or to the end of the step in which ``stop`` is asked for."""
        self.loop = loop = Loop(self.experiment, assemble(self.experiment, self.ranks, checkpoint), self.ranks)
        for note in loop.parts.notes:
            self._say(note)
        loop.on_rollouts = self._rollouts_collected
        finished = load_checkpoint(loop, checkpoint) if checkpoint else FinishedStep(0, {}, judged=True)
        # a run that is told to go on says so in its status, before a checkpoint can
        finished.overrule(self.ranks.broadcast(self.directory.status().get("overruled", []) if self.directory else []))
        recorded = self._rewind_record(checkpoint, finished)
        self._on_rank_0(lambda: self._start_listeners(finished.step))
        stop.waits = "finishing the step, then writing a checkpoint"
        if checkpoint:
            self.metrics = finished.metrics
            self._complete(finished, stop, saved=True, recorded=recorded)
        elif self.experiment.validation.before_train and self.experiment.validation.every:
            self._complete(attrs.evolve(finished, metrics=self._validate(0) | loop.timings()), stop, saved=True)
        while self.status == Status.RUNNING:
            started = time.perf_counter()
            metrics = loop.train_step()
            metrics |= loop.timings() | {"timing_s/step": time.perf_counter() - started}
            metrics["timing_s/hooks"] = self._hooks_s
            self._hooks_s = 0.0
            finished = attrs.evolve(
                finished, step=loop.step, metrics=metrics, judged=False, transcript=self._transcript()
            )
            self._complete(finished, stop)
        return Outcome(str(self.status), self.path, self.metrics)

    def _rollouts_collected(self, rollouts: Rollouts) -> None:
        step = self._running().step + 1
        self._on_rank_0(lambda: self._call("rollouts_collected", step=step, rollouts=rollouts))

    def _rewind_record(self, checkpoint: Path | None, finished: FinishedStep) -> bool:
        """Cut the record of the run at the step that it goes on from; say whether it has all of that step already."""
        recorded = False
        if self.directory:
            run = self.directory
            step = run.status().get("step")
            recorded = finished.judged and step is not None and step >= finished.step
            # a step that was not judged yet is recorded once it is
            last = finished.step if finished.judged else finished.step - 1
            reached = None if checkpoint is None or step is None else min(step, last) or None
            run.set_status(Status.RUNNING, step=reached, **self._detector_fields(finished))
            rewind(run, checkpoint)
            run.prune(self.experiment.trainer.keep)
            for record in run.metrics():
                self._remember_validation(record)
            # the total time of a run counts its earlier attempts
            self._started -= run.timings().get("total", 0.0)
        return self.ranks.broadcast(recorded)

    def _complete(self, finished: FinishedStep, stop: StopRequest, saved: bool = False, recorded: bool = False) -> None:
        """Complete a trained step: validate and judge it, write its checkpoint and its record if they are missing."""
        if not finished.judged:
            # marked before and after: an error in validation or in a detector still leaves a checkpoint of the step
            self._mark_whole(finished)
            self._judge(finished)
            self._mark_whole(finished)
        elif finished.step:
            self._mark_whole(finished)
        self.status = self._status_after(finished, self.ranks.any(stop.asked))
        if not saved:
            self._checkpoint(finished)
        if not recorded:
            self._on_rank_0(lambda: self._record(finished, saved))
        self.metrics = finished.metrics

    def _judge(self, finished: FinishedStep) -> None:
        """Validate the step if that is due, and ask the detectors for their verdicts."""
        loop = self._running()
        started = time.perf_counter()
        if self._validation_due(finished.step):
            finished.metrics |= self._validate(finished.step, finished.metrics)
            finished.metrics |= loop.timings()
        finished.metrics["timing_s/step"] += time.perf_counter() - started
        finished.metrics = self.ranks.broadcast(finished.metrics)
        finished.hear(loop.judge(finished.metrics), loop.parts.detectors.broken)
        finished.judged = True

    def _status_after(self, finished: FinishedStep, asked: bool) -> str:
        """Return the status of the run after a step; ``asked`` is whether a stop was requested."""
        if finished.verdict is not None:
            return stopped_by(finished.verdict["detector"])
        if finished.step >= self.experiment.trainer.steps:
            return Status.SUCCESS
        return Status.INTERRUPTED if asked else Status.RUNNING

    def _validation_due(self, step: int) -> bool:
        every = self.experiment.validation.every
        return bool(every) and (step == self.experiment.trainer.steps or step % every == 0)

    def _validate(self, step: int, metrics: dict[str, float] | None = None) -> dict[str, float]:
        validation = self._running().validate()
        self._on_rank_0(lambda: self._call("validation_finished", step=step, metrics={**(metrics or {}), **validation}))
        return validation

    def _transcript(self) -> list[dict[str, Any]]:
        """Return the texts of a few episodes, evenly chosen, in steps whose rollouts are logged."""
        loop = self._running()
        trainer = self.experiment.trainer
        if not trainer.log_rollouts or loop.step % trainer.log_rollouts_every:
            return []
        shown = loop.episodes[:: max(1, len(loop.episodes) // trainer.log_rollouts)]
        lost = [lost_transcript(group) for group in loop.lost[: trainer.log_rollouts]]
        return [*(transcript(episode) for episode in shown[: trainer.log_rollouts]), *lost]

    def _mark_whole(self, finished: FinishedStep) -> None:
        self.whole = WholeState.of(self._running(), finished)

    def _checkpoint(self, finished: FinishedStep) -> None:
        """Write a checkpoint of the step if one is due, or if the run ends with it."""
        trainer = self.experiment.trainer
        step = finished.step
        periodic = trainer.save_every > 0 and step % trainer.save_every == 0
        final = self.status != Status.RUNNING and (trainer.save_last or self.status == Status.INTERRUPTED)
        if not step or not (periodic or final):
            return
        started = time.perf_counter()
        finished.metrics["timing_s/total"] = started - self._started
        save_checkpoint(self._running(), self.directory, finished, self._running().state_dict())
        finished.metrics["timing_s/checkpoint"] = time.perf_counter() - started

    def _record(self, finished: FinishedStep, saved: bool) -> None:
        """Write all that others read of the step, the status last: if the status has the step, everything has."""
        assert self.directory is not None
        run = self.directory
        step = finished.step
        path = run.checkpoint_directory / f"step_{step}"
        if path.exists():
            self._call("checkpoint_saved", step=step, path=path)
        if not saved or "timing_s/total" not in finished.metrics:
            finished.metrics["timing_s/total"] = time.perf_counter() - self._started
        for line in finished.news():
            run.log(line)
        if finished.transcript:
            run.write_rollouts(step, finished.transcript)
        self._call("step_finished", step=step, metrics=finished.metrics)
        self._remember_validation(finished.metrics)
        metrics = self.validation | finished.metrics
        run.set_status(Status.RUNNING, step=step, metrics=metrics, **self._detector_fields(finished))

    def _remember_validation(self, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of the last validation."""
        self.validation.update({key: value for key, value in metrics.items() if key.startswith("validation/")})

    @staticmethod
    def _detector_fields(finished: FinishedStep) -> dict[str, Any]:
        """Return the fields of the status that say what the detectors said."""
        return {name: getattr(finished, name) or None for name in ("verdicts", "verdict", "broken_detectors")}

    def _start_listeners(self, step: int) -> None:
        assert self.directory is not None
        self.listeners = Listeners(self.directory, self.experiment, self.callbacks)
        self._call("run_started", experiment=self.experiment, step=step)

    def _on_rank_0(self, work: Callable[[], None]) -> None:
        self.ranks.first_does(work)

    def _call(self, hook: str, **arguments: Any) -> None:
        """Call a hook of the listeners, and count the time that it takes."""
        if self.listeners is not None:
            started = time.perf_counter()
            self.listeners.call(hook, **arguments)
            self._hooks_s += time.perf_counter() - started

    def _running(self) -> Loop:
        """Return the loop, which is there once the run has started."""
        assert self.loop is not None
        return self.loop

    # --- how it ends ---

    def keep(self) -> None:
        """Write the checkpoint of the last step whose state is whole, after an error that ends the run."""
        if self.whole is None or self.loop is None:
            return
        try:
            self.whole.keep(self.loop, self.directory, self.ranks, self._say)
        except (Exception, KeyboardInterrupt) as error:
            self._say(f"no checkpoint of step {self.whole.step} could be written: {type(error).__name__}: {error}")

    def fail(self, error: BaseException) -> None:
        """Write into the status that the run failed, when nothing else can be done any more."""
        self.status = Status.FAILED
        self.error = error
        self._record_end()

    def close(self) -> None:
        """Give engine and memory back, and write how the run ended."""
        try:
            if self.loop is not None:
                self.loop.parts.close()
        finally:
            self._record_end()

    def _record_end(self) -> None:
        if self.directory is None:
            return
        run = self.directory
        error = str(self.error) if self.error else None
        run.set_status(self.status, error=error, metrics=self.validation | self.metrics, timings=self._timings(run))
        if self.error is not None:
            # the disk may be full: the log may then lack the error, which the status has
            with suppress(OSError):
                run.log("".join(traceback.format_exception(self.error)))
        if self.status == Status.INTERRUPTED:
            self._say(f"interrupted: the same command with {RESUME} goes on from the last checkpoint")
        self._call("run_finished", status=str(self.status), metrics=self.metrics)
        if self.listeners is not None:
            self.listeners.sum_up()

    def _timings(self, run: RunDirectory) -> dict[str, float]:
        """Return the timings of all attempts of the run; the wall time that a scheduler measured stays."""
        return {**run.status().get("timings", {}), **run.timings()}

    def _say(self, text: str) -> None:
        """Print a line, and write it into the log of the run."""
        if self.directory is not None:
            say(text)
            with suppress(OSError):
                self.directory.log(text)
