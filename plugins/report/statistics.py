"""Points of a sweep are compared by differences, with standard errors that say where they come from."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

import attrs

from .data import SEED_AXIS, RunData

EPISODES, SEEDS = "validation tasks", "seeds"
Pairs = list[tuple[RunData, RunData]]


@attrs.frozen
class Difference:
    """What changes in a metric from ``baseline`` to ``value``, averaged over matched pairs of runs.

    Two runs are a pair if they differ in nothing but the compared setting: same values on all other axes, same seed.
    Only runs that used their whole budget are compared: a run that a detector stopped is a failed regime, not a
    measurement, and is named instead of averaged.
    """

    axis: str
    """The axis; empty where two points are compared."""
    value: str
    baseline: str
    difference: float | None
    se: float | None
    """Standard error of ``difference``: the larger of the two that :func:`compare` knows."""
    se_from: str
    """``validation tasks``, ``seeds``, or empty where neither is known."""
    pairs: int
    """How many pairs were averaged."""
    left_out: tuple[str, ...]
    """The runs whose pairs could not be averaged, each with the reason."""
    verdict: str
    """``higher``, ``lower``, ``not distinguishable`` (below 2 SE), ``no standard error``, ``failed regime`` (a detector
    stopped runs of this value, and none used its budget), ``failed regime of the baseline``, ``not measured``, or
    ``no pair`` (no two runs that used their budget differ in this alone)."""


def main_effects(runs: Sequence[RunData], axes: Mapping[str, Sequence[str]], metric: str) -> list[Difference]:
    """Compare each value of each axis against the axis's first value, averaged over the other axes."""
    at = {frozenset(run.point.items()): run for run in runs}
    effects = []
    for axis, (first, *others) in axes.items():
        for value in others if axis != SEED_AXIS else ():
            matched = [
                (run, at.get(frozenset({**run.point, axis: first}.items())))
                for run in runs
                if run.point.get(axis) == value
            ]
            effects.append(compare([(run, base) for run, base in matched if base], metric, axis, value, first))
    return effects


def against_first(runs: Sequence[RunData], metric: str) -> list[Difference]:
    """Compare each point against the first point, averaged over the seeds that both have."""
    points: dict[str, dict[str, RunData]] = defaultdict(dict)
    for run in runs:
        points[run.setting][run.seed] = run
    (first, base), *others = points.items()
    return [
        compare([(run, base[seed]) for seed, run in point.items() if seed in base], metric, "", name, first)
        for name, point in others
    ]


def compare(pairs: Pairs, metric: str, axis: str, value: str, baseline: str) -> Difference:
    """Return the mean difference of the last value of ``metric`` over pairs of (run, baseline run).

    Two standard errors are computed and the larger one is used. *Validation episodes*: the logged ``<metric>_se`` of
    both runs, propagated as if they were independent (the runs validate on the same tasks, which makes the true error
    smaller rather than larger). *Seeds*, where there are at least two: the standard deviation (ddof 1) of the effects
    within each seed, over the square root of the number of seeds.
    """
    pairs, apart = at_one_step(pairs, metric)
    final = {run.label: _final(run, metric) for pair in pairs for run in pair}
    measured = [(run, a, b) for run, base in pairs if (a := final[run.label]) and (b := final[base.label])]
    unmeasured = [run for pair in pairs for run in pair if not final[run.label]]
    differences = [value - base_value for _, (value, _), (base_value, _) in measured]
    errors = {
        EPISODES: _episodes_se([se for _, *both in measured for _, se in both], len(measured)),
        SEEDS: _seeds_se([run.seed for run, _, _ in measured], differences),
    }
    se_from, se = max(errors.items(), key=lambda item: -1.0 if item[1] is None else item[1])
    difference = statistics.fmean(differences) if differences else None
    return Difference(
        axis=axis,
        value=value,
        baseline=baseline,
        difference=difference,
        se=se,
        se_from="" if se is None else se_from,
        pairs=len(measured),
        left_out=tuple(dict.fromkeys([*(f"{run.title}: {run.status_text}" for run in unmeasured), *apart])),
        verdict=_verdict(difference, se) if measured or not pairs else _why_none(pairs, final),
    )


def at_one_step(pairs: Pairs, metric: str) -> tuple[Pairs, list[str]]:
    """Leave out pairs of one budget that were last measured at different steps; returns the others, and why.

    A last value that was not finite is none, and the one before it is no final value.
    """
    kept, apart = [], []
    for pair in pairs:
        ends = [measured[-1][0] for run in pair if _final(run, metric) and (measured := run.measured(metric))]
        if len(set(ends)) > 1 and pair[0].steps == pair[1].steps:
            earlier = min(pair, key=lambda run: run.measured(metric)[-1][0])
            apart.append(f"{earlier.title}: last measured at step {min(ends)}, its partner at step {max(ends)}")
        else:
            kept.append(pair)
    return kept, apart


def _final(run: RunData, metric: str) -> tuple[float, float | None] | None:
    """Return the last value and its standard error, of a run that used its whole budget."""
    measured = run.measured(metric)
    return measured[-1][1:] if measured and run.status == "success" else None


def _episodes_se(errors: Sequence[float | None], pairs: int) -> float | None:
    measured = [error for error in errors if error is not None]
    return math.hypot(*measured) / pairs if measured and len(measured) == len(errors) else None


def _seeds_se(seeds: Sequence[str], differences: Sequence[float]) -> float | None:
    within = defaultdict(list)
    for seed, difference in zip(seeds, differences, strict=True):
        within[seed].append(difference)
    if len(within) < 2:
        return None
    return statistics.stdev(statistics.fmean(effects) for effects in within.values()) / math.sqrt(len(within))


def _why_none(pairs: Pairs, final: Mapping[str, tuple[float, float | None] | None]) -> str:
    """Say why nothing could be averaged: a value failed if a detector stopped runs of it, and none used its budget."""
    values, baselines = ([pair[side] for pair in pairs] for side in (0, 1))
    both = all(any(final[run.label] for run in runs) for runs in (values, baselines))
    if both:
        return "no pair"
    for runs, verdict in ((values, "failed regime"), (baselines, "failed regime of the baseline")):
        if any(run.failed_regime for run in runs) and not any(final[run.label] for run in runs):
            return verdict
    return "not measured"


def _verdict(difference: float | None, se: float | None) -> str:
    if difference is None:
        return "no pair"
    if se is None:
        return "no standard error"
    if difference == 0 or abs(difference) < 2 * se:
        return "not distinguishable"
    return "higher" if difference > 0 else "lower"
