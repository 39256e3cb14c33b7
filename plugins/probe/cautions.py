"""What makes the numbers of a probe mean less than they seem to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

RELIABLE_K = 0.7
"""Of the Pareto fit: beyond it, smoothed weights are not reliable (Vehtari et al. 2024)."""
CLEAR = 2.0
"""Standard errors from 0 of a curvature that is mentioned."""
MOST_CURVATURE = 0.5
"""Of the prediction, which then says little about the step as it is."""
MOST_CLIPPED = 0.1
"""Of the weights: with more of them the effective sample size says nothing."""
TOO_LONG = "the step is too long for a first-order prediction, or E too small"
NOISE_MARGIN = 10
"""How many times the noise floor a measured change should be."""


def cautions(found: Mapping[str, Any]) -> Iterator[str]:
    """The warnings that go with the results of a probe."""
    if found["update"]["gradient_norm"] == 0:
        rest = "what momentum and decay make of it" if found["direction"] == "adamw" else "0, and changes nothing"
        yield f"the gradient of U is 0 (all rewards of a prompt alike?): the step is {rest}"
    if (few := found["small_sample"]) is not None:
        yield few["warning"]
    checks = found["integrity"] or {}
    for point in found["truth"]:
        yield from _of_weights(point, "" if len(found["truth"]) == 1 else f"at eta {point['eta']:g} ")
    floor, change = checks.get("noise_floor"), found["deltaH_true"]
    if floor and change and found["entropy_unit"] == "per_sequence" and abs(change) < NOISE_MARGIN * floor:
        yield f"deltaH_true is not far above the rounding of float32 ({floor:.1e} nats per sequence): take a larger eta"
    yield from _of_order(found)
    if (light := found["se_over_deltaH1"]) is not None and light > 1:
        yield f"the error is {light:.1f} times the prediction: its sign is not known; take a larger B_E"


def _of_order(found: Mapping[str, Any]) -> Iterator[str]:
    """Why the first order does not say what the step will do."""
    prediction = found["prediction"]
    if prediction is not None and prediction["deltaH1"] < -prediction["H_orig"]:
        yield f"the prediction takes away more than the entropy that is there, {prediction['H_orig']:.3g}: {TOO_LONG}"
    elif (curvature := found["variance"].get("paired_difference") or {}).get("se") is not None:
        value, se = curvature["value"], curvature["se"]
        if abs(value) > max(CLEAR * se, MOST_CURVATURE * abs(found["deltaH1"])):
            apart = f"{value:+.2g} ± {se:.1g}"
            yield f"on the same sample the truth is {apart} from the prediction, by curvature: {TOO_LONG}"


def _of_weights(point: Mapping[str, Any], at: str) -> Iterator[str]:
    """Why the truth of one eta cannot be trusted."""
    if point["ess_fraction"] is None:
        yield f"{at}the importance weights are not finite numbers: the step is far too long, and nothing was measured"
    elif (clipped := point.get("clipped_fraction") or 0.0) > MOST_CLIPPED:
        yield f"{at}{clipped:.0%} of the weights are clipped: the truth is biased; raise importance.clip_c"
    elif point["ESS_too_low"]:
        yield f"{at}the effective sample size is {point['ess_fraction']:.2f} of the sample: the step is too long"
    if (k := point.get("pareto_k")) is not None and k > RELIABLE_K:
        yield f"{at}the weights have a tail of Pareto shape {k:.2f}, above {RELIABLE_K}: the truth cannot be trusted"
