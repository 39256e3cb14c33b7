"""Rows of tables, column -> text, which a terminal and the page show alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .readable import NOTHING, short, with_error

PASSED = {True: "passed", False: "failed", None: "not judged"}


def criterion(found: Mapping[str, Any]) -> dict[str, str]:
    """What must hold if the probe is right."""
    threshold = found["threshold"]
    band = " to ".join(map(short, threshold)) if isinstance(threshold, list | tuple) else short(threshold)
    return {
        "criterion": found["name"].replace("_", " "),
        "outcome": PASSED[found["passed"]],
        "value": short(found["value"]),
        "threshold": band,
        "explanation": found["explanation"],
    }


def sizes(analysis: Mapping[str, Any]) -> list[dict[str, str]]:
    """The predictions of batch-scaling, by the size of E."""
    ratios = {name.rpartition("_")[2]: ratio for name, ratio in (analysis.get("scaling_analysis") or {}).items()}
    return [
        {
            "B_E": size,
            "runs": str(found["successful_runs"]),
            "mean deltaH1": with_error(found["mean_deltaH1"], found.get("SE_of_mean")),
            "std over runs": short(found["std_deltaH1"]),
            "mean SE_conditional": short(found["mean_SE_conditional"]),
            "over the smallest": short(ratios[size]["observed_ratio"]) if size in ratios else NOTHING,
            "if it were 1 / B_E": short(ratios[size]["expected_if_1_over_B_E"]) if size in ratios else NOTHING,
        }
        for size, found in (analysis.get("by_batch_size") or {}).items()
    ]


def step(point: Mapping[str, Any]) -> dict[str, str]:
    """The truth of one eta beside its prediction."""
    return {
        "η": short(point["eta"]),
        "measured": with_error(point.get("deltaH"), point.get("se")),
        "predicted": with_error(point.get("predicted"), point.get("predicted_se")),
        "ESS": short(point.get("ess_fraction"), ".1%") + (", too low" if point.get("ESS_too_low") else ""),
        "mean weight": with_error(point.get("mean_w"), point.get("se_mean_w")),
        "clipped": "" if point.get("clipped_fraction") is None else short(point["clipped_fraction"], ".1%"),
    }


def estimate(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    """What one variance estimator says."""
    return {
        "estimator": name,
        "estimate": with_error(found.get("value"), found.get("se")),
        "in": found.get("measured_in") or "",
        "units": f"{found.get('n')} {found.get('units')}",
        "status": found.get("status") or "",
        "estimand": found.get("estimand") or "",
        "reason": found.get("reason") or "",
    }
