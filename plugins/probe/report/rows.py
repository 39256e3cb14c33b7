"""Rows of tables map columns to texts, which a terminal and the page show alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .readable import NOTHING, short, with_error


def criterion(judged: Mapping[str, Any]) -> dict[str, str]:
    """Return the row of a criterion, which must hold if the probe is right."""
    threshold = judged["threshold"]
    band = " to ".join(map(short, threshold)) if isinstance(threshold, list | tuple) else short(threshold)
    if judged["passed"] is None:
        outcome = "not judged"
    elif judged["passed"]:
        outcome = "passed"
    else:
        outcome = "failed"
    return {
        "criterion": judged["name"].replace("_", " "),
        "outcome": outcome,
        "value": short(judged["value"]),
        "threshold": band,
        "explanation": judged["explanation"],
    }


def sizes(analysis: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the predictions of batch-scaling, a row for each size of E."""
    ratios = {name.rpartition("_")[2]: ratio for name, ratio in (analysis.get("scaling_analysis") or {}).items()}
    return [
        {
            "B_E": size,
            "runs": str(runs["successful_runs"]),
            "mean deltaH1": with_error(runs["mean_deltaH1"], runs.get("SE_of_mean")),
            "std over runs": short(runs["std_deltaH1"]),
            "mean SE_conditional": short(runs["mean_SE_conditional"]),
            "over the smallest": short(ratios[size]["observed_ratio"]) if size in ratios else NOTHING,
            "if it were 1 / B_E": short(ratios[size]["expected_if_1_over_B_E"]) if size in ratios else NOTHING,
        }
        for size, runs in (analysis.get("by_batch_size") or {}).items()
    ]


def step(point: Mapping[str, Any]) -> dict[str, str]:
    """Return the row of one eta: the measured change beside its prediction."""
    return {
        "η": short(point["eta"]),
        "measured": with_error(point.get("deltaH"), point.get("se")),
        "predicted": with_error(point.get("predicted"), point.get("predicted_se")),
        "ESS": short(point.get("ess_fraction"), ".1%") + (", too low" if point.get("ESS_too_low") else ""),
        "mean weight": with_error(point.get("mean_w"), point.get("se_mean_w")),
        "clipped": "" if point.get("clipped_fraction") is None else short(point["clipped_fraction"], ".1%"),
    }


def estimate(name: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Return the row of what one variance estimator says."""
    return {
        "estimator": name,
        "estimate": with_error(record.get("value"), record.get("se")),
        "in": record.get("measured_in") or "",
        "units": f"{record.get('n')} {record.get('units')}",
        "status": record.get("status") or "",
        "estimand": record.get("estimand") or "",
        "reason": record.get("reason") or "",
    }
