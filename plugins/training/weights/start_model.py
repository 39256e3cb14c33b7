"""The model that a checkpoint rests on and does not hold: the base of an adapter, or the reference of a KL term.

A run that goes on reads it where it was read first. Another one there would be taken for it without a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ....core.errors import RequestError
from ....core.files import replace_text
from ...rollout.fingerprint import Fingerprint, fingerprint, mismatches

FILE = "start_model.json"
"""In a checkpoint: two checksums for each of the start model's weights, and the type that they were loaded in."""
TOLERANCE = 1e-6
"""Relative or absolute; machines add in different orders."""


def of(model: nn.Module) -> dict[str, Fingerprint]:
    """The checksums of the weights that do not train."""
    return fingerprint((name, weight) for name, weight in model.named_parameters() if not weight.requires_grad)


def save(sums: Mapping[str, Fingerprint], dtype: str, checkpoint: Path) -> None:
    """Write them into a checkpoint, if there are any."""
    if sums:
        replace_text(checkpoint / FILE, json.dumps({"dtype": dtype, "weights": sums}))


def require_same(sums: Mapping[str, Fingerprint], dtype: str, checkpoint: Path | None, path: str | Path) -> None:
    """Hold the start model that is in ``path`` now against the one that ``checkpoint`` was trained from.

    Nothing is known of a checkpoint of an earlier version, nor of the weights in another type.

    Raises:
        RequestError: they are others.
    """
    known = _read(checkpoint / FILE) if checkpoint else {}
    if known.get("dtype") != dtype:
        return
    then = {name: (float(plain), float(ordered)) for name, (plain, ordered) in known["weights"].items()}
    if different := mismatches(then, sums, TOLERANCE):
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise RequestError(
            f"the model in {path} is another one than when the run began: {different[0]}{more} of its weights differ",
            "model.path",
            f"put the model back that the run was started from: {checkpoint} does not hold it",
        )


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}
