"""The configuration of a model says how many tokens it can read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
"""Attributes under which configurations hold the number of positions."""
STRETCHED = {"linear", "dynamic", "yarn"}
"""Names of rotary scalings whose factor the configuration's limit does not include."""


@attrs.frozen
class Reach:
    """The longest row that a model is made for."""

    tokens: int
    """The number of its tokens."""
    fixed: bool
    """Whether longer rows are impossible, as with a table of learned positions; rotary positions go on."""


def reach(config: Any) -> Reach | None:
    """Return the longest row; ``None`` where a model has no limit (recurrent ones, and most with ALiBi)."""
    text = config.get_text_config()
    values = (getattr(text, name, None) for name in LIMITS)
    limit = next((value for value in values if isinstance(value, int)), None)
    if limit is None:
        return None
    rotary = getattr(text, "rope_parameters", None)
    if not rotary:
        return Reach(limit, fixed=True)
    # some models have settings of their own for each kind of layer
    by_kind = [settings for settings in rotary.values() if isinstance(settings, Mapping)]
    return Reach(min(_stretched(settings, limit) for settings in by_kind or [rotary]), fixed=False)


def _stretched(rotary: Mapping[str, Any], limit: int) -> int:
    if rotary.get("rope_type", rotary.get("type")) not in STRETCHED:
        return limit
    original = rotary.get("original_max_position_embeddings") or limit
    return max(limit, int(original * (rotary.get("factor") or 1)))
