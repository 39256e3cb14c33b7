"""ZeRO as it is run: the stage for a number of ranks, and what it keeps in CPU memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def stage_in_effect(
    zero_stage: int, ranks: int, offload: str = "none", user_settings: Mapping[str, Any] | None = None
) -> int:
    """Return the ZeRO stage that is run; with settings of the user for ZeRO it is always the one that was asked for.

    One rank has no gradients to partition: stage 1 computes the same numbers as stage 2, but holds gradients once
    instead of twice and reduces them once an optimizer step rather than after each micro-batch.
    """
    return 1 if (zero_stage, ranks, offload) == (2, 1, "none") and not user_settings else zero_stage


def offload_settings(what: str) -> dict[str, Any]:
    """Return ZeRO's settings for what ``trainer.offload`` keeps in CPU memory."""
    parts = {"none": (), "optimizer": ("optimizer",), "all": ("optimizer", "param")}[what]
    return {f"offload_{part}": {"device": "cpu"} for part in parts}
