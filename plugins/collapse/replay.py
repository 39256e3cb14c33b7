"""Detectors are replayed over finished runs, to show when each would have spoken and how well it finds collapses."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import attrs

from ...core.components import Verdict
from ...core.compose.converter import make_converter, structure_component
from ...core.compose.named import Named
from ...core.compose.problems import Invalid
from ...core.errors import RequestError, UncollapseError, nearest
from ...core.files import read_bytes
from ...core.registry import registry
from ...core.runs.directory import RunDirectory
from ...core.runs.sweep_record import loads
from ...core.runs.trust import experiment_of
from ...core.yaml import SyntaxProblem

_CONDITION = re.compile(
    r"\s*([A-Za-z0-9_/@.-]+)\s*(<=|>=|<|>)\s*([+-]?(?:[0-9]+[.]?[0-9]*|[.][0-9]+)(?:[eE][+-]?[0-9]+)?)\s*"
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@attrs.frozen
class Outcome:
    """An outcome says which runs have collapsed: those in which a condition on a metric holds from some step to the
    end.

    ``validation/success<0.2`` is read from text by :meth:`read`.
    """

    metric: str
    """Name of the metric."""
    relation: str
    """Comparison: ``<``, ``<=``, ``>`` or ``>=``."""
    limit: float
    """Number that the metric is compared with."""

    @classmethod
    def read(cls, text: str) -> Outcome:
        """Read a condition from text. Raises RequestError if it is no such condition."""
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise RequestError(f"{text!r} is no condition", fix="write METRIC<NUMBER, e.g. validation/success<0.1")
        return cls(match[1], match[2], float(match[3]))

    def began(self, records: Sequence[Mapping[str, Any]]) -> int | None:
        """Return the step from which the condition held to the end, or ``None`` if the run did not collapse.

        Raises:
            RequestError: the metric was never logged.
        """
        series = [(record["step"], record[self.metric]) for record in records if record.get(self.metric) is not None]
        if not series:
            logged = {key for record in records for key in record}
            raise RequestError(f"the run never logged {self.metric}", fix=nearest(self.metric, logged))
        start = None
        for step, value in series:
            holds = _COMPARE[self.relation](value, self.limit)
            if not holds:
                start = None
            elif start is None:
                start = step
        return start


@attrs.frozen
class Replay:
    """A replay is what one detector says of one run."""

    run: Path
    """Run directory."""
    detector: str
    """Detector, as it was spelled."""
    verdict: Verdict | None
    """First verdict, or ``None``."""
    steps: int
    """Last step of the run."""
    collapsed_at: int | None = None
    """Step at which the run collapsed, by the outcome."""
    lead: int | None = None
    """Number of steps from the verdict to the collapse; negative if the verdict came after it."""
    unlogged: tuple[str, ...] = ()
    """Metrics that the detector asked for, if the run has logged none of them: it could not judge."""


@attrs.frozen
class Score:
    """A score says how well one detector does over many runs."""

    detector: str
    """Detector, as it was spelled."""
    runs: int
    """Number of runs that it could judge."""
    collapsed: int
    """Number of these runs that collapsed."""
    caught: int
    """Number of collapsed runs in which it spoke."""
    false_alarms: int
    """Number of other runs in which it spoke."""
    precision: float | None
    """Share of the runs in which it spoke that collapsed."""
    recall: float | None
    """Share of the collapsed runs in which it spoke."""
    median_lead: float | None
    """Median lead in steps, over the caught runs."""


def find_runs(paths: Sequence[Path]) -> list[RunDirectory]:
    """List the runs of run directories and of sweep directories, each once. Raises RequestError for other paths."""
    runs: list[RunDirectory] = []
    for path in paths:
        if (path / "sweep.yaml").is_file():
            try:
                points = loads(read_bytes(path / "sweep.yaml").decode())["points"]
                of_sweep = [RunDirectory(path / point.get("path", point["label"])) for point in points]
            except (SyntaxProblem, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
                raise RequestError("the record of the sweep is damaged", str(path / "sweep.yaml")) from error
            runs += [run for run in of_sweep if run.config_file.exists()]
        else:
            runs.append(RunDirectory.open(path))
    # a run that is named twice stands where it was named last
    distinct = {run.path.resolve(): run for run in reversed(runs)}
    return list(reversed(distinct.values()))


def usable(runs: Sequence[RunDirectory], outcome: Outcome | None) -> tuple[list[RunDirectory], list[str]]:
    """Return the runs that can be judged, and for each of the others the reason why it cannot.

    Raises:
        RequestError: no run can be judged.
    """
    kept, left_out = [], []
    for run in runs:
        try:
            records = run.metrics()
            if not records:
                raise RequestError("it has no metrics")
            if outcome:
                outcome.began(records)
        except UncollapseError as error:
            left_out.append(f"{run.path}: {error.what}" + (f" ({error.fix})" if error.fix else ""))
        else:
            kept.append(run)
    if not kept:
        raise RequestError("there is no run to judge", "; ".join(left_out) or "no runs", "name runs that have trained")
    return kept, left_out


def make_detector(spelling: str) -> Named:
    """Make a detector from its spelling. Raises RequestError if it is not registered or has no such parameter."""
    try:
        detector = structure_component(make_converter(registry()), registry(), "collapse", spelling)
    except Invalid as error:
        problem = error.problems[0]
        raise RequestError(str(problem), "--detector", "uncollapse list collapse") from error
    if "scorer" in detector.needs:
        raise RequestError(
            f"{detector.name} measures rollouts, and a finished run has only metrics", fix="name a detector that judges"
        )
    return detector


class _NotingMetrics(dict[str, float]):
    """The metrics of a step, which note the names that a detector asks for."""

    def __init__(self, metrics: Mapping[str, float], asked: set[str]) -> None:
        super().__init__(metrics)
        self._asked = asked

    def __getitem__(self, key: str) -> float:
        self._asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self._asked.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._asked.add(key)
        return super().get(key, default)


def replay(run: RunDirectory, detector: Named) -> tuple[Verdict | None, tuple[str, ...]]:
    """Return the first verdict of a detector on a run's logged metrics, and the metrics that it lacked.

    The latter are those that it asked for, if the run has logged none of them. The detector then could not judge, and
    that it gave no verdict means nothing.

    Raises:
        RequestError: the detector failed, or the run names plugin files that are neither loaded nor trusted.
    """
    context = SimpleNamespace(experiment=experiment_of(run), tokenizer=None)
    records = run.metrics()
    asked: set[str] = set()
    logged: set[str] = set()
    try:
        session = detector.component.start(context)
        for record in records:
            # step 0 is the validation before training, which detectors do not judge in a run either
            if record["step"] > 0:
                metrics = {key: value for key, value in record.items() if value is not None and key != "step"}
                logged |= metrics.keys()
                verdict = session.judge(record["step"], _NotingMetrics(metrics, asked))
                if verdict:
                    return verdict, ()
    except UncollapseError:
        raise
    except Exception as error:
        reason = f"the detector {detector.name} failed: {type(error).__name__}: {error}"
        raise RequestError(reason, str(run.path), "mend its plugin") from error
    return None, () if asked & logged else tuple(sorted(asked))


def replay_all(runs: Sequence[RunDirectory], spellings: Sequence[str], outcome: Outcome | None) -> list[Replay]:
    """Replay every detector on every run; ``outcome`` also says how long before the collapse it spoke."""
    detectors = [(spelling, make_detector(spelling)) for spelling in dict.fromkeys(spellings)]
    replays = []
    for run in runs:
        records = run.metrics()
        began = outcome.began(records) if outcome else None
        last = records[-1]["step"] if records else 0
        for spelling, detector in detectors:
            verdict, unlogged = replay(run, detector)
            lead = began - verdict.step if began is not None and verdict else None
            replays.append(Replay(run.path, spelling, verdict, last, began, lead, unlogged))
    return replays


def score(replays: Sequence[Replay]) -> list[Score]:
    """Score each detector over the runs that it could judge."""
    scores = []
    for spelling in dict.fromkeys(item.detector for item in replays):
        judged = [item for item in replays if item.detector == spelling and not item.unlogged]
        collapsed = [item for item in judged if item.collapsed_at is not None]
        spoke = [item for item in judged if item.verdict]
        leads = [item.lead for item in collapsed if item.lead is not None]
        caught = len(leads)
        scores.append(
            Score(
                detector=spelling,
                runs=len(judged),
                collapsed=len(collapsed),
                caught=caught,
                false_alarms=len(spoke) - caught,
                precision=caught / len(spoke) if spoke else None,
                recall=caught / len(collapsed) if collapsed else None,
                median_lead=median(leads) if leads else None,
            )
        )
    return scores
