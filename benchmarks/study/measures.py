"""The study measures when the success of a run falls, how long before detectors speak, and what forecasts are worth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs
import thin
from uncollapse.plugins.report.metrics import SUCCESS

Row = Mapping[str, Any]
Fate = Literal["falls", "holds", "nothing to lose", "not measured"]
STANDARD_ERRORS = 2.0


@attrs.frozen
class Course:
    """What became of the success of a run."""

    fate: Fate
    fell_at: int | None = None
    """Step of the first validation of the fall."""


def course(row: Row) -> Course:
    """Say whether success falls, and when.

    It falls at the first validation that lies, as all later ones do, more than two standard errors below the highest
    success before it. The error is that of the difference of two validations, as if these were independent. A run has
    something to lose if its highest success lies more than two of its standard errors above 0, and is above 0.
    """
    errors = dict(thin.series(row, f"{SUCCESS}_se"))
    measured = [(step, value, errors.get(step, 0.0)) for step, value in thin.series(row, SUCCESS)]
    if len(measured) < 2:
        return Course("not measured")
    _, highest, error = max(measured, key=lambda each: each[1])
    if highest <= STANDARD_ERRORS * error or highest == 0:
        return Course("nothing to lose")
    fell_at = None
    for at in range(len(measured) - 1, 0, -1):
        step, value, se = measured[at]
        _, peak, peak_se = max(measured[:at], key=lambda each: each[1])
        if peak - value <= STANDARD_ERRORS * math.hypot(se, peak_se):
            break
        fell_at = step
    return Course("falls", fell_at) if fell_at is not None else Course("holds")


@attrs.frozen
class Alarms:
    """What one detector was worth over some runs."""

    detector: str
    leads: tuple[int, ...]
    """Steps from the first verdict to the fall, of each run that falls and in which it spoke; below 1: late."""
    missed: int
    """Runs that fall and in which it never spoke."""
    false_alarms: int
    """Runs that hold and in which it spoke."""
    silent: int
    """Runs that hold and in which it never spoke."""
    nothing_to_lose: int
    """Runs without a success to lose in which it spoke."""

    @property
    def in_time(self) -> int:
        """Runs in which it spoke before success fell."""
        return sum(lead > 0 for lead in self.leads)

    @property
    def lead(self) -> tuple[float, float | None] | None:
        """Mean lead, and its standard error over runs."""
        return mean_and_error(self.leads)


def alarms(rows: Sequence[Row], detectors: Sequence[str]) -> list[Alarms]:
    """Hold the first verdict of each detector against the fall of success, run by run."""
    courses = [(row, course(row)) for row in rows]
    found = []
    for detector in detectors:
        said = [(row, verdict) for row in rows for verdict in row["verdicts"]]
        spoke = {id(row): int(verdict["step"]) for row, verdict in said if verdict["detector"] == detector}
        by_fate: dict[str, list[tuple[int | None, int | None]]] = {}
        for row, each in courses:
            by_fate.setdefault(each.fate, []).append((spoke.get(id(row)), each.fell_at))
        falls, holds = by_fate.get("falls", []), by_fate.get("holds", [])
        leads = tuple(fell - step for step, fell in falls if step is not None and fell is not None)
        lost = sum(step is not None for step, _ in by_fate.get("nothing to lose", []))
        false = sum(step is not None for step, _ in holds)
        found.append(Alarms(detector, leads, len(falls) - len(leads), false, len(holds) - false, lost))
    return found


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None] | None:
    """Return the mean and its standard error (ddof 1); ``None`` without values, and no error with one."""
    if not values:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.fmean(values), error


# --- the forecast -----------------------------------------------------------------------------------------------------


@attrs.frozen
class Forecast:
    """A forecast of the entropy's change by an update, and what became of it (nats per token)."""

    run: str
    predicted: float
    realised: float
    realised_se: float | None
    z: float | None
    status: int


def forecasts(row: Row) -> list[Forecast]:
    """Return the forecasts of a run whose outcome was measured."""
    by_name = {name: dict(thin.series(row, f"forecast/{name}")) for name in thin.FORECAST}
    found = []
    for step, for_step in by_name["for_step"].items():
        predicted, realised = by_name["predicted"].get(int(for_step)), by_name["realised"].get(step)
        if predicted is not None and realised is not None:
            status = int(by_name["status"].get(int(for_step), -1))
            error, z = by_name["realised_se"].get(step), by_name["z"].get(step)
            found.append(Forecast(row["label"], predicted, realised, error, z, status))
    return found


def skill(known: Sequence[Forecast]) -> float | None:
    """Return 1 less the mean squared error over the variance of what came true (ddof 0); ``None`` without variance."""
    if len(known) < 2:
        return None
    variance = statistics.pvariance(each.realised for each in known)
    if not variance:
        return None
    return 1 - statistics.fmean((each.predicted - each.realised) ** 2 for each in known) / variance


def best_skill(known: Sequence[Forecast]) -> float | None:
    """Return the skill that the measured errors of what came true leave to a forecast that knows the truth."""
    errors = [each.realised_se for each in known if each.realised_se is not None]
    if len(errors) < 2:
        return None
    variance = statistics.pvariance(each.realised for each in known)
    return 1 - statistics.fmean(error**2 for error in errors) / variance if variance else None


def z_mean(known: Sequence[Forecast]) -> float | None:
    """Return the mean of the z-scores."""
    scores = [each.z for each in known if each.z is not None]
    return statistics.fmean(scores) if len(scores) > 1 else None


def z_spread(known: Sequence[Forecast]) -> float | None:
    """Return the standard deviation of the z-scores (ddof 1): 1 if the errors of the forecasts are right."""
    scores = [each.z for each in known if each.z is not None]
    return statistics.stdev(scores) if len(scores) > 1 else None


def over_runs(
    known: Sequence[Forecast], measure: Callable[[Sequence[Forecast]], float | None]
) -> tuple[float, float | None] | None:
    """Return a measure of forecasts with its standard error: the jackknife, which leaves out one run at a time."""
    value = measure(known)
    if value is None:
        return None
    runs = list(dict.fromkeys(each.run for each in known))
    parts = [measure([each for each in known if each.run != run]) for run in runs]
    left = [part for part in parts if part is not None]
    if len(runs) < 2 or len(left) < len(runs):
        return value, None
    mean = statistics.fmean(left)
    return value, math.sqrt((len(left) - 1) / len(left) * sum((part - mean) ** 2 for part in left))
