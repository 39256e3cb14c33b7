"""Detectors over finished runs: when each would have spoken, and how well it tells collapsed runs from others."""

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
from ...core.compose.experiment import Named
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
    """What counts as a collapsed run: a condition on a metric that holds from some step to the last record of it.

    ``validation/success<0.2`` is read from text by :meth:`read`.
    """

    metric: str
    relation: str
    limit: float

    @classmethod
    def read(cls, text: str) -> Outcome:
        """Raises RequestError if it is no such condition."""
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise RequestError(f"{text!r} is no condition", fix="write METRIC<NUMBER, e.g. validation/success<0.1")
        return cls(match[1], match[2], float(match[3]))

    def began(self, records: Sequence[Mapping[str, Any]]) -> int | None:
        """The step from which the condition held to the end; ``None``: the run did not collapse.

        Raises RequestError if the metric was never logged.
        """
        series = [(record["step"], value) for record in records if (value := record.get(self.metric)) is not None]
        if not series:
            known = {key for record in records for key in record}
            raise RequestError(f"the run never logged {self.metric}", fix=nearest(self.metric, known))
        start = None
        for step, value in series:
            holds = _COMPARE[self.relation](value, self.limit)
            start = (step if start is None else start) if holds else None
        return start


@attrs.frozen
class Replay:
    """What one detector says of one run."""

    run: Path
    detector: str
    """As it was spelled."""
    verdict: Verdict | None
    steps: int
    """The last step of the run."""
    collapsed_at: int | None = None
    """Where the outcome says that the run collapsed."""
    lead: int | None = None
    """Steps from the verdict to the collapse; negative if it came after."""
    unlogged: tuple[str, ...] = ()
    """Metrics that it asked for in vain, where the run has logged none of those that it reads: it could not judge."""


@attrs.frozen
class Score:
    """How one detector does over many runs."""

    detector: str
    runs: int
    """That it could judge."""
    collapsed: int
    caught: int
    """Collapsed runs in which it spoke."""
    false_alarms: int
    """Other runs in which it spoke."""
    precision: float | None
    """Of the runs in which it spoke, the share that collapsed."""
    recall: float | None
    """Of the runs that collapsed, the share in which it spoke."""
    median_lead: float | None
    """Steps before the collapse, over the caught runs."""


def find_runs(paths: Sequence[Path]) -> list[RunDirectory]:
    """The runs of run directories and of sweep directories, each once. Raises RequestError where there is neither."""
    found: list[RunDirectory] = []
    for path in paths:
        if (path / "sweep.yaml").is_file():
            try:
                points = loads(read_bytes(path / "sweep.yaml").decode())["points"]
                runs = [RunDirectory(path / point.get("path", point["label"])) for point in points]
            except (SyntaxProblem, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
                raise RequestError("the record of the sweep is damaged", str(path / "sweep.yaml")) from error
            found += [run for run in runs if run.config_file.exists()]
        else:
            found.append(RunDirectory.open(path))
    return list({run.path.resolve(): run for run in reversed(found)}.values())[::-1]


def usable(runs: Sequence[RunDirectory], outcome: Outcome | None) -> tuple[list[RunDirectory], list[str]]:
    """The runs that can be judged, and why each of the others cannot.

    Raises RequestError if none is left.
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
    """A detector from its spelling. Raises RequestError for one that is not registered or has no such parameter."""
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


class _Asked(dict[str, float]):
    """The metrics of a step, which note what a detector asks for."""

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
    """The first verdict of a detector on a run's logged metrics, and what it could not judge for want of.

    The latter are the metrics that it asked for, if the run has logged none of them: its silence means nothing then.

    Raises RequestError if the run names plugin files that are neither loaded nor trusted.
    """
    context, records = SimpleNamespace(experiment=experiment_of(run), tokenizer=None), run.metrics()
    asked: set[str] = set()
    logged: set[str] = set()
    try:
        session = detector.component.start(context)
        for record in records:
            if record["step"] > 0:
                metrics = {key: value for key, value in record.items() if value is not None and key != "step"}
                logged |= metrics.keys()
                if verdict := session.judge(record["step"], _Asked(metrics, asked)):
                    return verdict, ()
    except UncollapseError:
        raise
    except Exception as error:
        reason = f"the detector {detector.name} failed: {type(error).__name__}: {error}"
        raise RequestError(reason, str(run.path), "mend its plugin") from error
    return None, () if asked & logged else tuple(sorted(asked))


def replay_all(runs: Sequence[RunDirectory], spellings: Sequence[str], outcome: Outcome | None) -> list[Replay]:
    """Every detector on every run; with ``outcome`` also how long before the collapse it spoke."""
    detectors = [(spelling, make_detector(spelling)) for spelling in dict.fromkeys(spellings)]
    found = []
    for run in runs:
        records = run.metrics()
        began = outcome.began(records) if outcome else None
        last = records[-1]["step"] if records else 0
        for spelling, detector in detectors:
            verdict, unlogged = replay(run, detector)
            lead = began - verdict.step if began is not None and verdict else None
            found.append(Replay(run.path, spelling, verdict, last, began, lead, unlogged))
    return found


def score(replays: Sequence[Replay]) -> list[Score]:
    """One line per detector, over the runs that it could judge."""
    scores = []
    for spelling in dict.fromkeys(item.detector for item in replays):
        own = [item for item in replays if item.detector == spelling and not item.unlogged]
        collapsed = [item for item in own if item.collapsed_at is not None]
        spoke = [item for item in own if item.verdict]
        leads = [item.lead for item in collapsed if item.lead is not None]
        caught = len(leads)
        scores.append(
            Score(
                detector=spelling,
                runs=len(own),
                collapsed=len(collapsed),
                caught=caught,
                false_alarms=len(spoke) - caught,
                precision=caught / len(spoke) if spoke else None,
                recall=caught / len(collapsed) if collapsed else None,
                median_lead=median(leads) if leads else None,
            )
        )
    return scores
