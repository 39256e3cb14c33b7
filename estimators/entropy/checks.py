"""What rules of the entropy coefficient refuse: parameters and measurements that are not finite."""

from __future__ import annotations

import math

import attrs

from ...core.errors import RunError


def finite(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    """Refuse a parameter that is NaN or infinite."""
    if not math.isfinite(value):
        raise ValueError(f"{attribute.name} must be finite, got {value}")


def at_least_low(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    """Refuse an upper bound that is below the parameter ``low`` of the same component, or not finite."""
    low = instance.low  # type: ignore[attr-defined]
    if not (math.isfinite(value) and value >= low):
        raise ValueError(f"{attribute.name} must be finite and at least low, {low}, got {value}")


def measured(entropy: float) -> float:
    """Return a measured entropy.

    Raises:
        RunError: it is NaN or infinite, so that no rule can follow it.
    """
    if not math.isfinite(entropy):
        raise RunError(f"the entropy of the policy is {entropy}", "entropy.controller", "look for a diverged policy")
    return entropy


def starts_within(coef: float, low: float, high: float) -> list[str]:
    """Say why a rule that holds the coefficient in [low, high] cannot begin at ``coef``."""
    if low <= coef <= high:
        return []
    return [f"it holds the coefficient in [{low}, {high}], and entropy.coef, with which it begins, is {coef}"]
