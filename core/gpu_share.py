"""The share of each GPU that a run may take, where several runs share it; it belongs to the place of a run, not to what
it computes, and so to no configuration.
"""

from __future__ import annotations

import math
import os

from .errors import RequestError

GIB = 2**30
VARIABLE = "UNCOLLAPSE_GPU_MEMORY"
"""Environment variable with the GiB of each GPU that a run may take, or :data:`ALL`."""
ALL = "all"
"""The value with which a run begins unless it cannot fit however short its rows are."""


def gpu_share() -> int | None:
    """Return the bytes of each GPU that this process may take; ``None``: all that is free.

    Raises:
        RequestError: the variable is not a number of GiB above 0.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if text in ("", ALL):
        return None
    try:
        gib = float(text)
    except ValueError:
        gib = math.nan
    if not 0 < gib <= 10_000:
        fix = f"write {VARIABLE}=24, or {VARIABLE}={ALL}"
        raise RequestError(f"{VARIABLE} is {text[:40]!r}, which is no number of GiB", "the environment", fix)
    return max(1, round(gib * GIB))


def overfills() -> bool:
    """Return whether a run may begin although it does not fit if all of its rows become as long as they may."""
    return os.environ.get(VARIABLE, "").strip() == ALL


def variables(share: int) -> dict[str, str]:
    """Return the environment of a run that may take ``share`` bytes of each GPU."""
    return {VARIABLE: f"{share / GIB:.15g}"}
