"""The criteria and the statistics of sanity-check are computed from the results of its runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch

from ..small_samples import as_it_came
from . import checks
from .checks import Criterion, Measured

GOOD, FAIR = 0.1, 0.2
"""The relative errors below which the traffic light is good, and ok."""

Light = Literal["good", "ok", "poor"]


def traffic_light(se: float | None, deltaH1: float | None) -> Light | None:
    """Say how well deltaH1 is known, by |se / deltaH1|: below 0.1 ``good``, below 0.2 ``ok``, else ``poor``.

    ``None`` if one of them was not computed.
    """
    if se is None or deltaH1 is None or not (math.isfinite(se) and math.isfinite(deltaH1)):
        return None
    relative = abs(se / deltaH1) if deltaH1 else math.inf
    if relative < GOOD:
        return "good"
    return "ok" if relative < FAIR else "poor"


def evaluate(runs: Sequence[Mapping[str, Any]], *, fixed_U: bool = True) -> list[Criterion]:
    """Judge every criterion by the results of the runs (the keys of ``results.json``, and ``success``).

    Failed runs count in the success rate alone. Weights, effective sample size and truth are those of the step whose
    eta is nearest to the run's learning rate. Without ``fixed_U`` what compares runs with each other is not applicable.
    """
    good = _successful(runs)
    steps = [_step(run) for run in good]
    proxy = {run.get("direction") for run in good} == {"preconditioned_gradient"}
    compared = _known(_compared(run, step) for run, step in zip(good, steps, strict=True))
    numbers: dict[str, float] = {}
    for number, run in enumerate(good, 1):
        numbers |= {f"run {number}: {key}": value for key, value in _numbers(run).items()}
    # a check that has nothing to judge says so itself, and fails nothing
    return [
        checks.success_rate(len(good), len(runs)),
        checks.finite(numbers),
        checks.adam_coverage(_known(_integrity(run).get("adam_coverage") for run in good)),
        checks.step_length(_known((run.get("update") or {}).get("v_norm") for run in good)),
        checks.unchanged(_known(_both(_integrity(run), "param_hash_before", "param_hash_after") for run in good)),
        checks.shift_canary(_known(_integrity(run).get("shift_canary") for run in good)),
        checks.score_identity(_known(_both(_integrity(run).get("score_identity"), "value", "se") for run in good)),
        checks.mean_weight(_known(_both(step, "mean_w", "se_mean_w") for step in steps)),
        checks.ess_fraction(_known(step.get("ess_fraction") for step in steps)),
        checks.product_identity(_pairs((_by_products(run), run.get("deltaH1")) for run in good)),
        checks.sign_flip(_pairs((_negated(run), _by_gradient(run)) for run in good), proxy),
        checks.zero_advantage(_known(map(_without_advantages, good)), proxy),
        checks.spread(_known(_measured(run, run, "deltaH1", "SE_conditional") for run in good), fixed_U),
        checks.prediction_against_truth([p for p, _ in compared], [t for _, t in compared], fixed_U),
    ]


def passed(criteria: Iterable[Criterion]) -> bool:
    """Return whether no criterion failed; what is not applicable does not count."""
    return all(criterion.passed is not False for criterion in criteria)


def analysis(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mapping ``analysis`` of ``validation_summary.json``, without the criteria.

    Statistics are over the successful runs whose deltaH1 is finite; ``std`` has ddof 1 and is ``None`` for one run;
    ``mean_signal_to_noise`` is the mean of |deltaH1| / SE_conditional over the runs where that is known.
    ``relative_error`` is (mean SE) / |mean deltaH1|, and ``traffic_light`` what :func:`traffic_light` says of it.
    """
    good = _successful(runs)
    if not good:
        return {"error": "No successful runs"}
    predictions = _known(run.get("deltaH1") for run in good)
    values = [float(x) for x in predictions if math.isfinite(x)]
    if not values:
        return {"error": "No valid deltaH1 values"}
    value_K = torch.tensor(values, dtype=torch.float64)
    mean = float(value_K.mean())
    # an error of 0 is one of a single prompt or of equal ones, and would make the signal infinite
    pairs = _known(_both(run, "deltaH1", "SE_conditional") for run in good)
    stated = [(x, se) for x, se in pairs if math.isfinite(x) and math.isfinite(se) and se > 0]
    mean_se = sum(se for _, se in stated) / len(stated) if stated else None
    return {
        "successful_runs": len(good),
        "total_runs": len(runs),
        "success_rate": len(good) / len(runs),
        "deltaH1_stats": {
            "mean": mean,
            "std": float(value_K.std()) if len(values) > 1 else None,
            "min": min(values),
            "max": max(values),
            "values": values,
        },
        "SE_conditional_stats": {
            "mean": mean_se,
            "mean_signal_to_noise": sum(abs(x) / se for x, se in stated) / len(stated) if stated else None,
        },
        "relative_error": mean_se / abs(mean) if mean_se is not None and mean else None,
        "traffic_light": traffic_light(mean_se, mean),
    }


def _successful(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [run for run in runs if run.get("success", True)]


def _known(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _pairs(values: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    return [pair for pair in values if None not in pair]


def _both(mapping: Mapping[str, Any] | None, one: str, other: str) -> tuple[Any, Any] | None:
    """Return the values of two keys, or ``None`` if one is missing."""
    values = (mapping or {}).get(one), (mapping or {}).get(other)
    return None if None in values else values


def _measured(run: Mapping[str, Any], mapping: Mapping[str, Any], value: str, error: str) -> Measured | None:
    """Return a value of a run and its standard error before it was widened, or ``None`` if one is missing."""
    stated = _both(mapping, value, error)
    return None if stated is None else (stated[0], as_it_came(run, stated[1]))


def _integrity(run: Mapping[str, Any]) -> Mapping[str, Any]:
    return run.get("integrity") or {}


def _negated(run: Mapping[str, Any]) -> float | None:
    return (_integrity(run).get("sign_flip") or {}).get("deltaH1_negated")


def _by_gradient(run: Mapping[str, Any]) -> float | None:
    """Return deltaH1 by the route that the negated one took, which differs from the other by rounding."""
    return (_integrity(run).get("reverse_mode") or run).get("deltaH1")


def _without_advantages(run: Mapping[str, Any]) -> float | None:
    return (_integrity(run).get("zero_advantage") or {}).get("deltaH1")


def _by_products(run: Mapping[str, Any]) -> float | None:
    """Return the predicted change by inner products per prompt, if that estimator has a value."""
    estimate = (run.get("variance") or {}).get("conditional_E") or {}
    return estimate.get("value") if estimate.get("status", "ok") == "ok" else None


def _step(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the step of the truth whose eta is nearest to the learning rate; empty without truth."""
    steps, rate = run.get("truth") or [], run.get("learning_rate")
    return min(steps, key=lambda step: abs(step["eta"] - rate)) if steps and rate else {}


def _compared(run: Mapping[str, Any], step: Mapping[str, Any]) -> tuple[Measured, Measured] | None:
    """Return (prediction, truth) of a step, each with its error; the prediction is linear in eta."""
    predicted = _measured(run, run, "deltaH1", "SE_conditional")
    truth = _measured(run, step, "deltaH", "se")
    if predicted is None or truth is None:
        return None
    scale = step["eta"] / run["learning_rate"]
    return (predicted[0] * scale, predicted[1] * abs(scale)), truth


def _numbers(run: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a result that must be finite where they exist; an estimator that met NaN is one."""
    top = ("deltaH1", "bars_dot", "learning_rate", "SE_conditional", "deltaH_true", "deltaH1_tok", "deltaH_true_tok")
    numbers = {key: run.get(key) for key in top}
    for step in run.get("truth") or ():
        if not step["eta"]:
            continue  # no step has no change and no error
        keys = ("deltaH", "se", "ess_fraction", "mean_w", "se_mean_w")
        numbers |= {f"truth at eta {step['eta']:g}: {key}": step.get(key) for key in keys}
    for key, value in (_integrity(run).get("score_identity") or {}).items():
        numbers[f"score_identity: {key}"] = value
    for name, estimate in (run.get("variance") or {}).items():
        if estimate.get("status") == "non_finite":
            numbers[f"variance {name}"] = math.nan
    return {key: value for key, value in numbers.items() if value is not None}
