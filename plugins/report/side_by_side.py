"""Two runs are laid side by side: what their policies wrote to the same tasks in the same step."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ...core.errors import RequestError
from ...core.runs.directory import RunDirectory
from .likeness import Likeness, likeness, prompt_of
from .metrics import ENTROPY, INFORMATION, SUCCESS
from .transcripts import chats, required_steps, some_of, step_of

Record = Mapping[str, Any]
FACTS = {
    "validation success": SUCCESS,
    "training success": "train/success",
    "reward": "train/reward",
    "entropy (nats per token)": ENTROPY,
    "mutual information (nats)": INFORMATION,
}
"""What is said of each run in a step -> the metric, at its last measurement up to there."""


@attrs.frozen
class Side:
    """A side is one run in one step."""

    facts: Mapping[str, tuple[int, float] | None]
    """For each of :data:`FACTS` the step and the value; ``None`` where it was not measured."""
    alike: Likeness
    unmatched: int
    """Recorded episodes whose task the other run has not."""


@attrs.frozen
class Both:
    """What both runs did with one task; the other run may have recorded fewer episodes of it."""

    prompt: str
    records: tuple[Record | None, Record | None]


@attrs.frozen
class Step:
    """A step of both runs."""

    step: int
    sides: tuple[Side, Side]
    tasks: Sequence[Both]
    """Tasks that both have recorded; without any, the episodes of each in the order of the record."""
    in_common: bool
    """Whether any task is recorded by both."""


@attrs.frozen
class SideBySide:
    """Two runs side by side."""

    names: tuple[str, str]
    """Names that differ."""
    statuses: tuple[str, str]
    steps: Sequence[Step]


def side_by_side(runs: tuple[RunDirectory, RunDirectory], steps: Sequence[str] = ("last",)) -> SideBySide:
    """Return two runs side by side in the given steps: numbers, or words for one of those that both have.

    Episodes belong together if their policies saw the same prompt.

    Raises:
        RequestError: it is one run, their environments differ, or a step is not recorded by both.
        RunError: a file of a run is damaged.
    """
    first, second = runs
    if first.path.resolve() == second.path.resolve():
        fix = "give two runs; one alone is shown by: uncollapse transcripts RUN"
        raise RequestError("it is the same run twice", str(first.path), fix)
    environments = [_environment(run) for run in runs]
    if environments[0] != environments[1]:
        what = f"the runs have different environments, {environments[0]} and {environments[1]}, and no task in common"
        raise RequestError(what, str(second.path), "give two runs of one environment, or look at each alone")
    chosen = _chosen(runs, steps)
    metrics = [run.metrics() for run in runs]
    return SideBySide(
        names=_names(first, second),
        statuses=(_status(first), _status(second)),
        steps=[_step(number, runs, metrics) for number in chosen],
    )


def _environment(run: RunDirectory) -> str:
    environment = run.read_config().get("environment")
    return str(environment.get("name") if isinstance(environment, dict) else environment).partition("(")[0]


def _status(run: RunDirectory) -> str:
    return str(run.status().get("status", "unknown"))


def _names(first: RunDirectory, second: RunDirectory) -> tuple[str, str]:
    """Return the shortest ends of the paths that differ."""
    parts = [run.path.resolve().parts for run in (first, second)]
    for count in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(each[-count:]) for each in parts]
        if ends[0] != ends[1]:
            return ends[0], ends[1]
    return str(first.path), str(second.path)


def _chosen(runs: tuple[RunDirectory, RunDirectory], words: Sequence[str]) -> list[int]:
    """Return the steps, each once. Raises RequestError if one is not recorded by both runs."""
    recorded = [required_steps(run) for run in runs]
    common = sorted(set(recorded[0]) & set(recorded[1]))
    if not common:
        what = f"the runs have recorded no step in common: {some_of(recorded[0])}, and {some_of(recorded[1])}"
        raise RequestError(what, str(runs[1].path), "train both with the same trainer.log_rollouts_every")
    steps: dict[int, None] = {}
    for word in words:
        having = zip(runs, recorded, strict=True)
        lacking = [str(run.path) for run, own in having if word.isdigit() and int(word) not in own]
        steps[step_of(word, common, " and ".join(lacking))] = None
    return list(steps)


def _step(number: int, runs: Sequence[RunDirectory], metrics: Sequence[Sequence[Record]]) -> Step:
    played: list[list[Record]] = [_played(run, number) for run in runs]
    by_prompt: tuple[dict[str, list[Record]], dict[str, list[Record]]] = ({}, {})
    for own, records in zip(by_prompt, played, strict=True):
        for record in records:
            own.setdefault(prompt_of(record), []).append(record)
    shared = [prompt for prompt in by_prompt[0] if prompt in by_prompt[1]]
    matched = [(by_prompt[0][prompt], by_prompt[1][prompt]) for prompt in shared] or [(played[0], played[1])]
    tasks = [
        Both(prompt, both)
        for prompt, (mine, theirs) in zip(shared or [""], matched, strict=True)
        for both in itertools.zip_longest(mine, theirs)
    ]
    sides = [
        Side(_facts(records, number), likeness(mine), sum(prompt_of(record) not in other for record in mine))
        for records, mine, other in zip(metrics, played, reversed(by_prompt), strict=True)
    ]
    return Step(number, (sides[0], sides[1]), tasks, bool(shared))


def _played(run: RunDirectory, step: int) -> list[Record]:
    """Return the recorded episodes without those of lost groups. Raises RunError if one is damaged."""
    records = run.read_rollouts(step)
    chats(records, str(run.path / "rollouts" / f"step_{step}.jsonl"))
    return [record for record in records if record["turns"]]


def _facts(records: Sequence[Record], step: int) -> dict[str, tuple[int, float] | None]:
    facts: dict[str, tuple[int, float] | None] = {}
    for what, metric in FACTS.items():
        measured = [
            (int(record["step"]), float(record[metric]))
            for record in records
            if int(record["step"]) <= step and record.get(metric) is not None
        ]
        facts[what] = measured[-1] if measured else None
    return facts
