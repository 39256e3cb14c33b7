"""The probe warns of what makes its numbers mean less than they seem to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

RELIABLE_K = 0.7
"""Largest shape of the Pareto fit with which smoothed weights are reliable (Vehtari et al. 2024)."""
CLEAR = 2.0
"""Standard errors that a curvature must be from 0 to be mentioned."""
MOST_CURVATURE = 0.5
"""Share of the prediction that curvature may be; beyond it the prediction says little about the step as it is."""
MOST_CLIPPED = 0.1
"""Share of the weights that may be clipped; beyond it the effective sample size says nothing."""
TOO_LONG = "the step is too long for a first-order prediction, or E too small"
NOISE_MARGIN = 10
"""Times the noise floor that a measured change should be at least."""


def cautions(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the warnings that go with the results of a probe."""
    if result["update"]["gradient_norm"] == 0:
        rest = "what momentum and decay make of it" if result["direction"] == "adamw" else "0, and changes nothing"
        yield f"the gradient of U is 0 (all rewards of a prompt alike?): the step is {rest}"
    if (few := result["small_sample"]) is not None:
        yield few["warning"]
    checks = result["integrity"] or {}
    for point in result["truth"]:
        yield from _of_weights(point, "" if len(result["truth"]) == 1 else f"at eta {point['eta']:g} ")
    floor, change = checks.get("noise_floor"), result["deltaH_true"]
    if floor and change and result["entropy_unit"] == "per_sequence" and abs(change) < NOISE_MARGIN * floor:
        yield f"deltaH_true is not far above the rounding of float32 ({floor:.1e} nats per sequence): take a larger eta"
    yield from _of_order(result)
    if (relative := result["se_over_deltaH1"]) is not None and relative > 1:
        yield f"the error is {relative:.1f} times the prediction: its sign is not known; take a larger B_E"


def _of_order(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield why the first order does not say what the step will do."""
    prediction = result["prediction"]
    if prediction is not None and prediction["deltaH1"] < -prediction["H_orig"]:
        yield f"the prediction takes away more than the entropy that is there, {prediction['H_orig']:.3g}: {TOO_LONG}"
    elif (curvature := result["variance"].get("paired_difference") or {}).get("se") is not None:
        value, se = curvature["value"], curvature["se"]
        if abs(value) > max(CLEAR * se, MOST_CURVATURE * abs(result["deltaH1"])):
            apart = f"{value:+.2g} ± {se:.1g}"
            yield f"on the same sample the truth is {apart} from the prediction, by curvature: {TOO_LONG}"


def _of_weights(point: Mapping[str, Any], which: str) -> Iterator[str]:
    """Yield why the measured change at one eta cannot be trusted; ``which`` begins each line and names the eta."""
    if point["ess_fraction"] is None:
        nothing = "the step is far too long, and nothing was measured"
        yield f"{which}the importance weights are not finite numbers: {nothing}"
    elif (clipped := point.get("clipped_fraction") or 0.0) > MOST_CLIPPED:
        yield f"{which}{clipped:.0%} of the weights are clipped: the truth is biased; raise importance.clip_c"
    elif point["ESS_too_low"]:
        yield f"{which}the effective sample size is {point['ess_fraction']:.2f} of the sample: the step is too long"
    if (k := point.get("pareto_k")) is not None and k > RELIABLE_K:
        yield f"{which}the weights have a tail of Pareto shape {k:.2f}, above {RELIABLE_K}: the truth cannot be trusted"
