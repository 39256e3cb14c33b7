"""The report of a probe says its findings in cards, and the rest in tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...report.page import Card, Cell, Chip, Section
from ..experiments.criteria import traffic_light
from ..next_step import step_lines
from . import rows
from .data import Experiment, Run, at_learning_rate
from .readable import NOTHING, short, with_error

DIRECTIONS = {
    "adamw": "the step that AdamW takes from the saved state, with momentum, preconditioning and weight decay",
    "preconditioned_gradient": "the policy gradient divided by the root of the saved second moment, "
    "without momentum and weight decay",
}
VERDICTS = {
    "convergence": ("higher", "the prediction does not depend on the batch size, as it should"),
    "inverse_B": ("lower", "the prediction shrinks as 1 / B_E: look for a sum that is divided by the batch size twice"),
    "inconclusive": ("", "the runs do not tell convergence from 1 / B_E"),
}
CHIPS = {"passed": "success", "good": "success", "ok": "success", "success": "success"}
CHIPS |= {"failed": "failed", "error": "failed", "poor": "failed"}
"""Colours by outcome, status or traffic light; others have none."""
SAME_SAMPLE = (
    "Prediction and truth of one run are of the same sequences and share their errors: their difference is curvature "
    "(and, of few sequences, what normalising the weights takes from the truth), not a test."
)
OWN_SAMPLES = "Prediction and truth of one run have a sample of E each."


def cards(experiment: Experiment) -> list[Card]:
    """Return the findings that the page opens with."""
    findings = []
    if "verdict" in experiment.analysis:
        verdict = experiment.analysis["verdict"]
        outcome, text = VERDICTS[verdict]
        findings.append(Card("verdict", verdict.replace("_", " "), text, outcome))
    if criteria := experiment.analysis.get("criteria"):
        failed = [criterion["name"] for criterion in criteria if criterion["passed"] is False]
        judged = sum(criterion["passed"] is not None for criterion in criteria)
        text = f"failed: {', '.join(failed)}" if failed else "none failed"
        figure = f"{judged - len(failed)} of {judged} passed"
        findings.append(Card("criteria", figure, text, "lower" if failed else "higher"))
    failures = sum(run.result is None for run in experiment.runs)
    # of a single run its numbers are the finding, of several how many there are
    if len(experiment.runs) == 1 and not failures:
        result = experiment.results[0]
        light = traffic_light(result.get("SE_conditional"), result.get("deltaH1"))
        if result.get("deltaH1") is not None:
            figure = with_error(result["deltaH1"], result.get("SE_conditional"))
            findings.append(Card("predicted change, deltaH1", figure, f"{experiment.unit}{_light(light)}"))
        if result.get("deltaH_true") is not None:
            figure = with_error(result["deltaH_true"], at_learning_rate(result).get("se"))
            findings.append(Card("measured change, deltaH_true", figure, experiment.unit))
    else:
        figure = f"{len(experiment.runs) - failures} of {len(experiment.runs)} succeeded"
        findings.append(Card("runs", figure, "", "lower" if failures else ""))
    return findings


def judgement(experiment: Experiment) -> list[Section]:
    """Return the tables that the verdict rests on."""
    analysis = experiment.analysis
    criteria = [_coloured(rows.criterion(criterion)) for criterion in analysis.get("criteria") or ()]
    laws = (analysis.get("se_scaling") or {}).items()
    return [
        Section("Criteria", "What must hold if the probe is right.", criteria),
        Section("Verdict", analysis.get("evidence", ""), _models(analysis.get("fit"))),
        Section(
            "By batch size", f"In {experiment.unit}; errors are one standard error of the mean.", rows.sizes(analysis)
        ),
        Section(
            "How errors fall with the batch",
            "Slope of the logarithm over log B_E; −1/2 where prompts are independent.",
            [_law(name, law) for name, law in laws if law],
        ),
    ]


def details(experiment: Experiment) -> list[Section]:
    """Return the runs, the steps that were measured, the estimators, and what the numbers mean."""
    one = next(iter(experiment.largest), {})
    steps = next((result["truth"] for result in experiment.largest if result.get("truth")), ())
    variance = (one.get("variance") or {}).items()
    several = " Of the first run with the largest E." if len(experiment.results) > 1 else ""
    return [
        Section("Runs", _samples(experiment), [_coloured(_run(run)) for run in experiment.runs]),
        Section("Measured steps", f"In {experiment.unit}.{several}", [rows.step(step) for step in steps]),
        Section(
            "Standard errors",
            several.strip(),
            [_coloured(rows.estimate(name, estimate)) for name, estimate in variance],
        ),
        Section("What is measured", "", lines=_meaning(experiment)),
        Section("Ignored in the configuration", "", lines=list(experiment.said("ignored") or ())),
    ]


def _light(light: str | None) -> str:
    return f"; |SE / deltaH1|: {light}" if light else ""


def _coloured(row: dict[str, str]) -> dict[str, Cell]:
    return {column: Chip(text, CHIPS[text]) if text in CHIPS else text for column, text in row.items()}


def _models(fit: Mapping[str, Any] | None) -> list[dict[str, str]]:
    if not fit:
        return []
    words = {"convergence": "the same at every size", "inverse_B": f"c × {fit['B_ref']} / B_E"}
    return [
        {
            "model": text,
            "c": with_error(fit[name]["c"], fit[name]["se"]),
            "chi2": short(fit[name]["chi2"]),
            "degrees of freedom": str(fit[name]["degrees_of_freedom"]),
            "p": short(fit[name]["p"], ".2g"),
            "AIC": short(fit[name]["AIC"]),
        }
        for name, text in words.items()
    ]


def _law(name: str, law: Mapping[str, Any]) -> dict[str, str]:
    low, high = law["ci95"]
    return {
        "of": name,
        "slope": with_error(law["slope"], law["se"]),
        "95 % interval": f"{short(low)} to {short(high)}",
        "holds −1/2": "yes" if law["consistent"] else "no",
    }


def _run(run: Run) -> dict[str, str]:
    if run.result is None:
        return {"run": run.name, "outcome": "failed", "error": run.error}
    result, step = run.result, at_learning_rate(run.result)
    seconds, memory = (result.get("timing") or {}).get("total_time"), result.get("peak_memory_bytes")
    return {
        "run": run.name,
        "outcome": "success",
        "B_E": short(result.get("B_E"), "d"),
        "B_U": short(result.get("B_U"), "d"),
        "deltaH1": with_error(result.get("deltaH1"), result.get("SE_conditional")),
        "|SE / deltaH1|": traffic_light(result.get("SE_conditional"), result.get("deltaH1")) or NOTHING,
        "deltaH_true": with_error(result.get("deltaH_true"), step.get("se")),
        "ESS": short(step.get("ess_fraction"), ".1%"),
        "deltaH1_tok": short(result.get("deltaH1_tok")),
        "bars_dot": short(result.get("bars_dot")),
        "η": short(result.get("learning_rate")),
        "seconds": short(seconds, ".1f"),
        "peak GiB": short(None if memory is None else memory / 2**30, ".2f"),
    }


def _samples(experiment: Experiment) -> str:
    text = f"Changes in {experiment.unit}, each with one standard error over draws of E."
    if comparison := experiment.said("comparison"):
        text += f" {SAME_SAMPLE if comparison.get('paired', True) else OWN_SAMPLES}"
    return text


def _meaning(experiment: Experiment) -> list[str]:
    """Return the estimand and the direction, in words."""
    lines = []
    if experiment.results:
        lines.append(
            f"deltaH1 is the first-order change of the policy's entropy, in {experiment.unit}, on the prompts of E if "
            "the step of the batch U is taken; above 0 the entropy is predicted to rise. deltaH_true is the change "
            "that importance sampling measures on sequences that were sampled before the step."
        )
    if (direction := experiment.said("direction")) in DIRECTIONS:
        lines.append(f"Direction {direction}: {DIRECTIONS[direction]}.")
    if step := experiment.said("step"):
        lines += [f"The step: {line}." for line in step_lines(step)]
    return lines


def subtitle(experiment: Experiment) -> str:
    """Return one line that says what was probed, and how."""
    facts = {
        "checkpoint": experiment.config.get("checkpoint"),
        "B_U": experiment.said("B_U"),
        "learning rate": short(rate) if (rate := experiment.said("learning_rate")) is not None else None,
        "": experiment.config.get("timestamp"),
    }
    return " · ".join(f"{name} {value}".strip() for name, value in facts.items() if value is not None)
