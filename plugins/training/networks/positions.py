"""A check says whether a model has a position for every token of the rows that an experiment allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....core.errors import RequestError
from ...rollout.positions import reach


def check_positions(config: Any, max_context: int, path: str | Path, key: str = "model.path") -> str:
    """Return a warning if rows may become longer than the model was trained on; empty if none can.

    A model with rotary positions computes them for rows of any length, some models work there, and few episodes may
    become that long. So such rows get a warning and are not refused.

    Raises:
        RequestError: the model has a table of positions, and rows may grow beyond it.
    """
    positions = reach(config)
    if positions is None or max_context <= positions.tokens:
        return ""
    what = f"{path} has {positions.tokens} positions, and rollout.max_context lets rows grow to {max_context} tokens"
    if positions.fixed:
        fix = f"set rollout.max_context={positions.tokens}, or give a model with more positions"
        raise RequestError(what, key, fix)
    return (
        f"{what}: it was not trained on what is beyond, and may say nothing sensible there; set rollout.max_context="
        f"{positions.tokens} to cut such episodes off"
    )
