"""Points of a sweep run so that what is done stays done, what has begun goes on, and nothing is overwritten."""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import attrs
from rich.console import Console

from ...core.compose.identity import config_hash
from ...core.errors import RequestError, UncollapseError, in_python
from ...core.files import make_directory, replace_text
from ...core.runs.damage import clear_ways
from ...core.runs.locks import take
from ...core.runs.sweep_record import dumps, loads
from ...core.yaml import SyntaxProblem
from ..launch.exit_codes import how_it_ended
from ..launch.job import Job
from ..report.sweep_status import shown
from ..tracking.wandb_sync import Syncer
from . import summary
from .aside import move_aside
from .result import INTERRUPTED, Result
from .side_by_side import PerGpu, Sharing, sharing
from .skip_or_resume import WAIT_S, Prepared, held, in_a_line, prepare_alone, refuse_stale, repair

OTHER_ROOT = in_python("--output-root", "root=...")
MOMENT_S = 1.0
"""Seconds for which others hold a run, to see whether somebody trains it."""
WRONG_REQUEST = 2
RAN_BEFORE = (0, 3)
"""Exit codes of a process that finds its run ended, by a sweep that shares it."""
IMPORTS = (
    "uncollapse.plugins.training.train",
    "uncollapse.plugins.training.deepspeed_backend",
    "deepspeed",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.qwen2.modeling_qwen2",
)
"""Modules that take a run seconds to import, and that runs on one CPU can share."""


@attrs.frozen
class Options:
    """These options say how a sweep runs; what it computes does not depend on any of them."""

    skip_statuses: tuple[str, ...] = ("success",)
    """Statuses of points that are not run again with the same configuration; ``stopped`` stands for any detector."""
    retries: int = 0
    """Number of times that a failed run is tried again, from its last checkpoint."""
    stale: Literal["ask", "keep", "rerun"] = "ask"
    """Way to treat runs that were made with other sources than those of now: refuse to go on, take them as they
    are (those that have not ended are resumed, and their manifests tell), or train them anew."""
    wandb_sync: Literal["each", "end", "never"] = "never"
    """Time at which W&B runs that were recorded offline are uploaded."""
    progress: Literal["stdout", "stderr"] = "stdout"
    """Stream on which the sweep says how it goes."""
    per_gpu: PerGpu = None
    """Runs at a time on each GPU, which share its memory equally; ``auto``: as many as fit."""
    gpu_gib: float | None = None
    """GiB of the smallest GPU that ``per_gpu`` shares out; ``None``: what is free on the GPUs of this machine."""


def run_points(record: Mapping[str, Any], points: Sequence[Prepared], launcher: Any, options: Options) -> Result:
    """Write ``sweep.yaml`` and run every point that is not to be skipped; see :meth:`.sweep.Sweep.run`."""
    shared = sharing(points, launcher, options.per_gpu, options.gpu_gib)
    launcher = shared.launcher
    launcher.describe()  # raises what run would raise, before anything is written
    home = points[0].place.home
    make_directory(home)
    clear_ways(home / ".lock", home / "sweep.yaml")
    with _locked(home):
        if options.stale == "ask":
            refuse_stale(points, options.skip_statuses)
        _write_record(home / "sweep.yaml", record)
        statuses = _Running(points, shared, options).run()
    return Result(home, statuses)


class _Running:
    """A pass over the points of a sweep, which runs those that are to be run."""

    def __init__(self, points: Sequence[Prepared], shared: Sharing, options: Options) -> None:
        self.console = Console(soft_wrap=True, highlight=False, markup=False, stderr=options.progress == "stderr")
        self.launcher, self.shared, self.options = shared.launcher, shared, options
        patience = time.monotonic() + WAIT_S
        self.points = {
            point.label: prepare_alone(
                point, options.skip_statuses, self.console.print, patience - time.monotonic(), options.stale
            )
            for point in points
        }
        self.tries: dict[str, int] = defaultdict(int)
        self.started: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self.syncer = Syncer(options.wandb_sync)
        self.ended = 0

    def run(self) -> dict[str, str]:
        """Run what is to be run; label -> status."""
        todo = [point for point in self.points.values() if point.todo]
        self.console.print(f"{len(self.points)} points, {len(todo)} to run")
        if self.shared.words:
            self.console.print(self.shared.words)
        self._announce(todo)
        _build_models(todo, self.console)
        home = next(iter(self.points.values())).place.home
        try:
            with shown(home, self.console):
                self.launcher.run([self._job(point) for point in todo], on_start=self._start, on_finish=self._finish)
        finally:
            for point in todo:
                with self._alone(point):
                    if point.record().get("status") == "running" and not point.run.locked():
                        point.run.set_status("interrupted", error="it was killed when the sweep was interrupted")
            for path, error in self.syncer.close(point.run for point in self.points.values()).items():
                self.console.print(f"{path}: not uploaded to W&B: {error}")
            for file, points in self._by_summary().items():
                self._append(file, *summary.closing((point.place, point.record()) for point in points))
        return {point.label: point.record().get("status", "not started") for point in self.points.values()}

    @contextmanager
    def _alone(self, point: Prepared) -> Iterator[None]:
        """Take what goes wrong with the record of one point for its failure, and no other one's."""
        try:
            yield
        except (UncollapseError, OSError) as error:
            self.points[point.label] = attrs.evolve(point, broken=in_a_line(error))

    def _append(self, file: Path, *lines: str) -> None:
        """Add to a summary log, which is no reason to end a sweep where it cannot be written."""
        try:
            summary.append(file, *lines)
        except (UncollapseError, OSError) as error:
            self.console.print(f"the summary log is not complete: {in_a_line(error)}")

    def _by_summary(self) -> dict[Path, list[Prepared]]:
        files = defaultdict(list)
        for point in self.points.values():
            if point.place.summary:
                files[point.place.summary].append(point)
        return files

    def _announce(self, todo: Sequence[Prepared]) -> None:
        for point in self.points.values():
            if point.broken:
                self.console.print(f"{point.title}: failed, {point.broken}")
            elif not point.todo:
                self.console.print(f"{point.title}: skipped, {point.why}")
        for file, points in self._by_summary().items():
            summary.check(file)
            title = "Sweep resumed" if file.exists() else "Sweep"
            skipped = [f"Skipping: {point.place.name} ({point.why})" for point in points if point.why]
            self._append(file, f"{title}: {sum(point.todo for point in points)} of {len(points)} runs", *skipped)

    def _job(self, point: Prepared) -> Job:
        log = point.run.path / "log.txt"
        return Job(point.label, command_of(point, self.launcher), log, self.shared.environment, preload=IMPORTS)

    def _start(self, job: Job) -> None:
        point = self.points[job.name]
        self.started[job.name] = time.monotonic(), point.record()
        self.console.print(f"started {point.title}, see {point.place.log or job.log}")

    def _finish(self, job: Job, code: int) -> Job | None:
        point = self.points[job.name] = attrs.evolve(self.points[job.name], broken="")  # of an earlier attempt
        started, before = self.started.pop(job.name, (time.monotonic(), point.record()))
        with self._alone(point):
            self._settle(point, code, started, before)
        point = self.points[job.name]
        status = point.record()
        self.tries[job.name] += 1
        if status.get("status") == "failed" and code != WRONG_REQUEST and self.tries[job.name] <= self.options.retries:
            self.console.print(f"{point.title}: {describe(status)}; trying again ({self.tries[job.name]})")
            return job
        self.ended += 1
        todo = sum(point.todo for point in self.points.values())
        self.console.print(f"[{self.ended}/{todo}] {point.title}: {describe(status)}")
        if point.place.summary:
            self._append(point.place.summary, summary.line(point.place, status))
        self.syncer.ended(point.run)
        return None

    def _settle(self, point: Prepared, code: int, started: float, before: Mapping[str, Any]) -> None:
        """Complete the record of a run whose process has ended; one that died without a word has failed."""
        run, record = point.run, point.record()
        if held(run, MOMENT_S) or not record:
            self.console.print(f"{run.path}: another process {'trains it' if record else 'has put another run there'}")
            return
        if record.get("status") == "damaged":
            repair(point, self.console.print)
        unchanged = record == before and code not in RAN_BEFORE
        if point.record().get("status") in ("queued", "running") or unchanged:
            state = "interrupted" if code == INTERRUPTED else "failed"
            run.set_status(state, error=f"{how_it_ended(code)}; see log.txt")
        spent = {**point.record().get("timings", {}), **run.timings()}
        with suppress(OSError):  # a full disk: how it ended is written down all the same
            run.annotate(timings={**spent, "wall": spent.get("wall", 0.0) + time.monotonic() - started})


def command_of(point: Prepared, launcher: Any) -> list[str]:
    """Return the command of the process that trains a point, begun or not."""
    words = [sys.executable, "-m", "uncollapse.cli.main", "train", str(point.run.config_file)]
    words += ["--run-dir", str(point.run.path), "--resume"]
    ranks = launcher.gpus_per_job
    return [*words, "--ranks", str(ranks)] if ranks > 1 else words


def describe(status: Mapping[str, Any]) -> str:
    """Return a status record in one line."""
    metrics = status.get("metrics", {})
    parts = [status.get("status", "not started")]
    if "step" in status:
        parts.append(f"step {status['step']}")
    if metrics.get("validation/success") is not None:
        error = metrics.get("validation/success_se")
        parts.append(f"validation success {metrics['validation/success']:.3f}" + (f" ± {error:.3f}" if error else ""))
    if status.get("error"):
        parts.append(str(status["error"]).splitlines()[0])
    return ", ".join(parts)


def _build_models(points: Sequence[Prepared], console: Console) -> None:
    """Build the start models before any run needs one, so that runs do not wait for each other."""
    built = [point.experiment for point in points if point.experiment.model.build]
    if not built:
        return
    from ..training.networks.prepare import prepare_model

    for path in dict.fromkeys(str(prepare_model(experiment, warmed=False)) for experiment in built):
        console.print(f"start model: {path}")


def _write_record(file: Path, record: Mapping[str, Any]) -> None:
    text = dumps(record)
    if file.exists() and (stored := file.read_text(encoding="utf-8", errors="replace")) != text:
        try:
            digest = config_hash(loads(stored))
        except (SyntaxProblem, AttributeError):
            digest = "damaged"
        move_aside(file, digest)
    replace_text(file, text)


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Two schedulers of one sweep would wait for each other's runs. The lock goes with the process that has it."""
    with (home / ".lock").open("ab+") as lock:
        deadline = time.monotonic() + MOMENT_S
        while not (taken := take(lock)) and time.monotonic() < deadline:  # somebody may be looking whether it is held
            time.sleep(0.05)
        if not taken:
            lock.seek(0)
            who = lock.read().decode(errors="replace").strip() or "another process"
            raise RequestError(f"{who} runs this sweep", str(home), f"wait for it, or give another {OTHER_ROOT}")
        lock.truncate(0)
        lock.write(f"process {os.getpid()}".encode())
        lock.flush()
        yield
