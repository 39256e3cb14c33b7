"""The experiments of the probe are ``single``, ``batch-scaling``, ``sanity-check`` and ``debug``.

Each is a plan of runs and a summary of their records. All runs of an experiment but ``single`` share one update: U is
drawn once, from the stream ``U``, and E anew for each run, from the stream of its size and number, so that runs differ
by E alone and are independent given the update.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import attrs

from ....core.errors import RequestError
from ....core.registry import registry
from ....estimators.variance.terms import Terms
from ...training.processes.ranks import Ranks, start_ranks
from ..checkpoint.files import find_checkpoint
from ..config import ProbeConfig
from ..read_config import Read
from ..small_samples import as_it_came
from . import criteria, scaling
from .files import check_label, claim, write_json
from .runs import Run, Runner

Record = Mapping[str, Any]
"""Entry of a summary for one run."""


@attrs.frozen
class Outcome:
    """An outcome says how an experiment ended."""

    directory: Path | None
    """Directory of the experiment; ``None`` on ranks that write nothing."""
    summary: dict[str, Any]
    planned: int
    """Number of runs, done or not."""
    exit_code: int
    """Exit code 0; 1 if no run succeeded, 3 if a criterion of sanity-check is not met, 130 if it was interrupted."""


@attrs.frozen(eq=False, kw_only=True)
class Experiment(ABC):
    """All experiments share the directory, the loop over runs, and a summary that is written after every run.

    The summary says ``interrupted`` until the last run has ended, so that it is true of one that was killed.
    """

    name: ClassVar[str]
    category: ClassVar[str]
    """Directory below ``results``."""
    title: ClassVar[str]
    """Name of the experiment's directory, before the time."""
    test_type: ClassVar[str]
    """Name of the experiment in the summary."""
    summary_file: ClassVar[str]
    shares_update: ClassVar[bool] = True
    """Whether all runs have one update."""

    read: Read
    """Configuration, with the checkpoint in it."""
    results: Path = Path("results")
    label: str | None = None
    """Name of the directory in place of ``title``."""
    save_gradients: bool = False
    on_run: Callable[[Record], None] = lambda record: None
    """Function that is called with the record of each run, on rank 0."""

    def run(self) -> Outcome:
        """Do all runs; Ctrl-C ends them, and the summary has those that are done.

        Raises:
            RequestError: the checkpoint cannot be probed with this configuration, or nothing can be written.
        """
        check_label(self.label)
        plan = self.plan()
        self._check(plan)
        started = time.perf_counter()
        read = attrs.evolve(self.read, config=_located(self.config))
        ranks = start_ranks()
        now = datetime.now()
        place = self._claim(ranks, now)
        runner = Runner(read, place, ranks, shares_update=self.shares_update, save_gradients=self.save_gradients)
        about = self._about(read.config, now, place)
        records: list[Record] = []

        def summarise() -> dict[str, Any]:
            timed = {**about, "total_time": time.perf_counter() - started}
            summary = {"test_config": timed, **self.conclude(records), "interrupted": len(records) < len(plan)}
            if place is not None:
                write_json(place / self.summary_file, summary)
            return summary

        summary = summarise()  # a run that is killed leaves a summary, too
        try:
            for run in plan:
                records.append(runner.run(run))
                summary = summarise()
                if place is not None:
                    self.on_run(records[-1])
        except KeyboardInterrupt:
            summary = summarise()
        return Outcome(place, summary, len(plan), self.exit_code(summary, records, len(plan)))

    def _about(self, config: ProbeConfig, now: datetime, place: Path | None) -> dict[str, Any]:
        """Return ``test_config`` of the summary, but for the time that the experiment has taken."""
        return {
            "test_type": self.test_type,
            **self.settings(),
            "checkpoint": config.checkpoint.checkpoint_path,
            "timestamp": now.isoformat(),
            "experiment_directory": str(place),
        }

    @property
    def config(self) -> ProbeConfig:
        return self.read.config

    @abstractmethod
    def plan(self) -> list[Run]:
        """Return the runs, in order."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what ``test_config`` of the summary says of the plan."""

    def conclude(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the rest of the summary, from the records of the runs so far."""
        return {"all_results": list(records)}

    def exit_code(self, summary: Mapping[str, Any], records: Sequence[Record], planned: int) -> int:
        """Return the exit code of the command; see :class:`Outcome`."""
        if len(records) < planned:
            return 130
        return 0 if any(record["success"] for record in records) else 1

    def _claim(self, ranks: Ranks, now: datetime) -> Path | None:
        place = refusal = None
        if ranks.first:
            try:
                place = claim(self.results / self.category, self.label or self.title, now)
            except RequestError as error:
                refusal = error
        if refusal := ranks.broadcast(refusal):
            raise refusal
        return place

    def _check(self, plan: Sequence[Run]) -> None:
        if len(plan) > 1 and self.config.probe_reuse.e_batch_cache_path is not None:
            raise RequestError(
                f"one file holds one sample of E, and {self.name} draws {len(plan)}",
                "probe_reuse.e_batch_cache_path",
                "leave it out; u_batch_cache_path may stay",
            )


class Single(Experiment):
    """The experiment makes one probe, the same as ``run_mixed_probe``."""

    name = "single"
    category = "single_run"
    title = "single_run"
    test_type = "single"
    summary_file = "single_test_results.json"
    shares_update = False

    def plan(self) -> list[Run]:
        B_E = self.config.sizes[0]
        return [Run(f"BE{B_E:03d}_BU{self.config.batch_config.B_U:03d}", B_E)]

    def settings(self) -> dict[str, Any]:
        return {"B_E": self.config.sizes[0], "B_U": self.config.batch_config.B_U}

    def conclude(self, records: Sequence[Record]) -> dict[str, Any]:
        return {"result": records[0] if records else None}


class BatchScaling(Experiment):
    """Several runs of each size show whether the prediction converges or falls like 1 / B_E; see :mod:`.scaling`."""

    name = "batch-scaling"
    category = "batch_scaling"
    title = "δH₁_convergence"
    test_type = "batch_scaling"
    summary_file = "convergence_analysis.json"

    def plan(self) -> list[Run]:
        B_U, runs = self.config.batch_config.B_U, []
        for B_E in self.config.sizes:
            for number in range(1, self.config.batch_config.runs_per_batch + 1):
                name = f"BE{B_E:03d}_run{number:03d}"
                facts = {"B_E_target": B_E, "B_U_target": B_U, "run_id": number, "run_name": name}
                runs.append(Run(name, B_E, (B_E, number), facts))
        return runs

    def settings(self) -> dict[str, Any]:
        batches = self.config.batch_config
        sizes = list(self.config.sizes)
        return {"B_E_values": sizes, "B_U": batches.B_U, "runs_per_batch": batches.runs_per_batch}

    def conclude(self, records: Sequence[Record]) -> dict[str, Any]:
        runs = [
            scaling.ScalingRun(record["B_E"], record["deltaH1"], _error(record))
            for record in records
            if record["success"] and record["deltaH1"] is not None
        ]
        return {"analysis": {**scaling.analyse(runs), "repeats": repeats(records)}, **super().conclude(records)}

    def _check(self, plan: Sequence[Run]) -> None:
        super()._check(plan)
        if len({run.name for run in plan}) < len(plan):
            sizes = ", ".join(map(str, self.config.sizes))
            raise RequestError("a size is given twice", f"B_E_values: {sizes}", "ask for more runs instead")


class SanityCheck(Experiment):
    """Many runs of one size show whether every criterion of :mod:`.criteria` is met."""

    name = "sanity-check"
    category = "sanity_check"
    title = "validation"
    test_type = "sanity_check"
    summary_file = "validation_summary.json"

    def plan(self) -> list[Run]:
        B_E, runs = self.config.sizes[0], self.config.batch_config.runs_per_batch
        names = [f"run{number:03d}" for number in range(1, runs + 1)]
        return [
            Run(name, B_E, (B_E, number), {"run_id": number, "run_name": name}) for number, name in enumerate(names, 1)
        ]

    def settings(self) -> dict[str, Any]:
        batches = self.config.batch_config
        return {"runs": batches.runs_per_batch, "B_E": self.config.sizes[0], "B_U": batches.B_U}

    def conclude(self, records: Sequence[Record]) -> dict[str, Any]:
        runs = [{**record.get("full_results", {}), "success": record["success"]} for record in records]
        judged = criteria.evaluate(runs)
        analysis = {
            **criteria.analysis(runs),
            "repeats": repeats(records),
            "criteria": [attrs.asdict(criterion) for criterion in judged],
            "passed": criteria.passed(judged),
        }
        return {"analysis": analysis, **super().conclude(records)}

    def exit_code(self, summary: Mapping[str, Any], records: Sequence[Record], planned: int) -> int:
        code = super().exit_code(summary, records, planned)
        return 3 if code == 0 and not summary["analysis"]["passed"] else code


class Debug(Experiment):
    """One run of each size is reported with everything that the probe can measure."""

    name = "debug"
    category = "debug"
    title = "debug_analysis"
    test_type = "debug"
    summary_file = "debug_report.json"

    def plan(self) -> list[Run]:
        return [Run(f"debug_BE{B_E:03d}", B_E, (B_E, 1), {"B_E_target": B_E}) for B_E in self.config.sizes]

    def settings(self) -> dict[str, Any]:
        sizes = list(self.config.sizes)
        return {"B_E_values": sizes, "B_U": self.config.batch_config.B_U, "save_gradients": self.save_gradients}


EXPERIMENTS: dict[str, type[Experiment]] = {kind.name: kind for kind in (Single, BatchScaling, SanityCheck, Debug)}


def repeats(records: Sequence[Record]) -> dict[str, Any]:
    """Return ``{B_E: {"repeat_std": ...}}``: the spread of deltaH1 over the runs of each size, by that estimator."""
    values: dict[int, list[float]] = {}
    for record in records:
        if record["success"] and record["deltaH1"] is not None:
            values.setdefault(record["B_E"], []).append(record["deltaH1"])
    estimator = registry().create("variance", "repeat_std")
    return {
        str(B_E): {"repeat_std": attrs.asdict(estimator.estimate(Terms(repeats_K=repeats_K)))}
        for B_E, repeats_K in sorted(values.items())
    }


def _error(record: Record) -> float | None:
    """Return SE_conditional before it was widened for few prompts."""
    se = record["SE_conditional"]
    return None if se is None else as_it_came(record["full_results"], se)


def _located(config: ProbeConfig) -> ProbeConfig:
    """Return the configuration with the paths that are really read. Raises RequestError if there is no checkpoint."""
    place = config.checkpoint
    if not place.checkpoint_path:
        raise RequestError("no checkpoint is given", "checkpoint.checkpoint_path", "name one, or use --checkpoint")
    files = find_checkpoint(place.checkpoint_path, place.optimizer_path or None)
    optimizer = place.optimizer_path if files.sharded else str(files.optimizer_path)
    located = attrs.evolve(place, checkpoint_path=str(files.directory), optimizer_path=optimizer)
    return attrs.evolve(config, checkpoint=located)
