"""How many tokens a model can read, as its configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
"""What configurations call it."""
STRETCHED = {"linear", "dynamic", "yarn"}
"""Kinds of rotary scaling whose factor is not in the configuration's limit already."""


@attrs.frozen
class Reach:
    """Tokens of one row that a model is made for."""

    tokens: int
    fixed: bool
    """Whether there is nothing beyond them, as with a table of learned positions; rotary ones go on."""


def reach(config: Any) -> Reach | None:
    """``None`` where a model has no such limit (recurrent ones, and most with ALiBi)."""
    text = config.get_text_config()
    limit = next((found for name in LIMITS if isinstance(found := getattr(text, name, None), int)), None)
    if limit is None:
        return None
    rotary = getattr(text, "rope_parameters", None)
    if not rotary:
        return Reach(limit, fixed=True)
    by_kind = [inner for inner in rotary.values() if isinstance(inner, Mapping)]  # of layer
    return Reach(min(_stretched(settings, limit) for settings in by_kind or [rotary]), fixed=False)


def _stretched(rotary: Mapping[str, Any], limit: int) -> int:
    if rotary.get("rope_type", rotary.get("type")) not in STRETCHED:
        return limit
    original = rotary.get("original_max_position_embeddings") or limit
    return max(limit, int(original * (rotary.get("factor") or 1)))
