"""What makes the numbers of a probe mean less than they seem to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

RELIABLE_K = 0.7
"""Of the Pareto fit: beyond it, smoothed weights are not reliable (Vehtari et al. 2024)."""
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
    if (light := found["se_over_deltaH1"]) is not None and light > 1:
        yield f"the error is {light:.1f} times the prediction: its sign is not known; take a larger B_E"


def _of_weights(point: Mapping[str, Any], at: str) -> Iterator[str]:
    """Why the truth of one eta cannot be trusted."""
    if point["ess_fraction"] is None:
        yield f"{at}the importance weights are not finite numbers: the step is far too long, and nothing was measured"
    elif point["ESS_too_low"]:
        yield f"{at}the effective sample size is {point['ess_fraction']:.2f} of the sample: the step is too long"
    if (k := point.get("pareto_k")) is not None and k > RELIABLE_K:
        yield f"{at}the weights have a tail of Pareto shape {k:.2f}, above {RELIABLE_K}: the truth cannot be trusted"
