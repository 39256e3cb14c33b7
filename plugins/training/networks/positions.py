"""Whether a model has a position for every token of the rows that an experiment allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....core.errors import RequestError
from ...rollout.positions import reach


def check_positions(config: Any, max_context: int, path: str | Path, key: str = "model.path") -> str:
    """What to say of rows that outgrow what the model was made for; empty where none can.

    A model with rotary positions computes them for any row, and there are models that bear it; few episodes may get
    that long. So that is said, not refused.

    Raises:
        RequestError: the model has a table of positions, and rows may grow beyond it.
    """
    found = reach(config)
    if found is None or max_context <= found.tokens:
        return ""
    what = f"{path} has {found.tokens} positions, and rollout.max_context lets rows grow to {max_context} tokens"
    if found.fixed:
        fix = f"set rollout.max_context={found.tokens}, or give a model with more positions"
        raise RequestError(what, key, fix)
    return (
        f"{what}: it was not trained on what is beyond, and may say nothing sensible there; set rollout.max_context="
        f"{found.tokens} to cut such episodes off"
    )
