"""The detector ``template_collapse`` finds policies whose reasonings no longer depend on what they are asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
from attrs import validators

from ...core.components import CollapseDetector, Verdict
from .session import MetricSession, Streaks

RETRIEVAL = "collapse_first_turn_sample/retrieval_above_chance"
ERROR = f"{RETRIEVAL}_se"
VALID = "collapse/first_turn_valid_rate"
IDENTICAL = "collapse/identical_across_prompts"
STANDARD_ERRORS = 2.0
"""Number of standard errors by which a value must differ from chance, or from its early value."""
LEAST_TASKS = 3
"""Smallest number of tasks of which ``mutual_information`` gives standard errors."""
ROUNDING = 1e-6
"""Share below which a value is 0: with equal scores the share and its chance differ by rounding alone."""

Reading = Sequence[float]
"""A value and its standard error."""
share = validators.and_(validators.ge(0.0), validators.le(1.0))
positive = validators.ge(1)


@attrs.frozen
class TemplateCollapse(CollapseDetector):
    """Speak when the reasonings of first turns no longer tell their prompts apart, though their form is valid.

    A policy may keep its format and its entropy, and yet give every prompt the same reasonings (RAGEN-2,
    arXiv:2604.06268). The detector ``mutual_information``, which must stand beside it, measures
    ``retrieval_above_chance`` with its standard error, and ``collapse/identical_across_prompts``. There is a verdict if

    * lost: each of the last ``window`` measurements is below ``ratio`` times the early value, and their mean is two
      standard errors below the early value
    * never: no early value was ever above chance, and the mean of all measurements (``measurements`` or more) is within
      two standard errors of chance
    * identical: in each of the last ``window`` measurements more than ``max_identical`` of the pairs of reasonings for
      different prompts were the same tokens

    The early value is the mean of the first ``baseline_measurements`` measurements in a row that is above chance by two
    standard errors. It is not the highest value so far: information may rise shortly before a policy collapses, so that
    a rise is no sign of health, and the fall after it no loss. Measurements count only where at least ``min_valid`` of
    the first turns have a valid thought; ``format_collapse`` watches those.
    """

    ratio: float = attrs.field(default=0.3, validator=[validators.gt(0), validators.lt(1)])
    """Limit of the retrieval above chance, as a multiple of the early value."""
    window: int = attrs.field(default=3, validator=positive)
    """Number of measurements in a row."""
    baseline_measurements: int = attrs.field(default=2, validator=positive)
    """Number of measurements whose mean is the early value."""
    measurements: int = attrs.field(default=4, validator=positive)
    """Number of measurements from the beginning after which it may say that the run has never been above chance."""
    max_identical: float = attrs.field(default=0.9, validator=share)
    """Limit of the share of identical pairs; with 1 it is never exceeded."""
    min_valid: float = attrs.field(default=0.5, validator=share)
    """Smallest share of first turns with a valid thought at which a measurement counts."""
    stop: bool = False
    """Whether the verdict ends the run; with ``false`` it is recorded, as rewards may still rise without reasoning."""

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield the reason why it could never judge this experiment."""
        measuring = [named for named in experiment.collapse if named.name == "mutual_information"]
        if not measuring:
            yield "judges what the detector mutual_information measures: add mutual_information to collapse"
        elif not measuring[0].component.first_turn:
            yield "judges first turns, and mutual_information has first_turn=false"
        elif experiment.rollout.groups < LEAST_TASKS:
            yield f"judges by standard errors over tasks, and rollout.groups is below {LEAST_TASKS}"

    def start(self, context: Any) -> _TemplateSession:
        return _TemplateSession(self)


class _TemplateSession(MetricSession):
    def __init__(self, rule: TemplateCollapse) -> None:
        self._rule = rule
        self.before: list[Reading] = []
        """All readings until there is an early value, and none afterwards."""
        self.early: Reading | None = None
        self.last: list[Reading] = []
        """The last ``window`` readings since there is an early value."""
        self.streaks: dict[str, int] = {}

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        value, error, valid = metrics.get(RETRIEVAL), metrics.get(ERROR), metrics.get(VALID)
        identical = metrics.get(IDENTICAL)
        if valid is None or valid < self._rule.min_valid:
            return None
        told = None if value is None or error is None else self._told((value, error))
        streaks = Streaks(self.streaks)
        streaks.update(identical=None if identical is None else identical > self._rule.max_identical)
        repeats = identical is not None and streaks.reached(self._rule.window) is not None
        condition = told or ("identical" if repeats else None)
        if condition is None:
            return None
        readings = {RETRIEVAL: value, ERROR: error, VALID: valid, IDENTICAL: identical}
        evidence: dict[str, Any] = {key: number for key, number in readings.items() if number is not None}
        if self.early is not None:
            evidence |= {"early": self.early[0], "threshold": self._rule.ratio * self.early[0]}
        return Verdict(
            "template_collapse", step, self._reason(condition), {"condition": condition, **evidence}, self._rule.stop
        )

    def _told(self, reading: Reading) -> str | None:
        """Add a reading of the retrieval; return the condition that now holds, if one does."""
        rule = self._rule
        if self.early is None:
            self.before = [*self.before, reading]
            first = mean(self.before[-rule.baseline_measurements :])
            if len(self.before) >= rule.baseline_measurements and above_chance(first):
                self.early, self.before = first, []
                return None
            never = len(self.before) >= rule.measurements and not above_chance(mean(self.before))
            return "never" if never else None
        self.last = [*self.last, reading][-rule.window :]
        (early, early_error), (late, late_error) = self.early, mean(self.last)
        low = len(self.last) == rule.window and all(value < rule.ratio * early for value, _ in self.last)
        return "lost" if low and early - late > STANDARD_ERRORS * math.hypot(early_error, late_error) else None

    def _reason(self, condition: str) -> str:
        rule, times = self._rule, f"{self._rule.window} times in a row"
        reasons = {
            "lost": f"reasonings identified their prompts less than {rule.ratio:g} times as well as early on, {times}",
            "never": f"reasonings have never identified their prompts, in {len(self.before)} measurements",
            "identical": f"more than {rule.max_identical:.0%} of reasonings for different prompts were equal, {times}",
        }
        return reasons[condition]


def above_chance(reading: Reading) -> bool:
    """Say whether a reading is above chance by more than its standard error explains."""
    value, error = reading
    return value > STANDARD_ERRORS * error + ROUNDING


def mean(readings: Sequence[Reading]) -> tuple[float, float]:
    """Return the mean of readings of different steps, which share no task, and its standard error."""
    count = len(readings)
    return sum(value for value, _ in readings) / count, math.hypot(*(error for _, error in readings)) / count
