"""What the seconds of a run were spent on, from its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SUMS = {
    "eval": "timing_s/validation",
    "collapse": "timing_s/detectors",
    "first_turn": "timing_s/collapse_first_turn",
    "multi_turn": "timing_s/collapse_multi_turn",
}
"""Names of times, each with the metric that it adds up over all steps."""


def timings(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Sum up seconds by name: those of :data:`SUMS`, ``train`` and ``total``; what was never measured is absent.

    ``train`` is the time of the training steps without validation and detectors; ``eval`` includes the validation
    before training; ``total`` is wall time inside the processes of the run, checkpoints included; a resumed run goes on
    counting where it went on training.
    """
    sums = {name: sum(values) for name, metric in SUMS.items() if (values := [v for _, v in _series(records, metric)])}
    if steps := [seconds for step, seconds in _series(records, "timing_s/step") if step > 0]:
        first = sum(seconds for step, seconds in _series(records, SUMS["eval"]) if step == 0)
        sums["train"] = max(0.0, sum(steps) - (sums.get("eval", 0.0) - first) - sums.get("collapse", 0.0))
    if clocks := _series(records, "timing_s/total"):
        sums["total"] = clocks[-1][1]
    return sums


def _series(records: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[int, float]]:
    return [(record["step"], value) for record in records if (value := record.get(metric)) is not None]
