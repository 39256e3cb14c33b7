"""The start model is needed by a checkpoint that does not hold it: the base of an adapter, or a reference.

A run that continues reads it from the place where it was read first. If another model were there, nobody would notice;
so its weights are compared.
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
"""File in a checkpoint with two checksums for each of the start model's weights, and the type of these weights."""
TOLERANCE = 1e-6
"""Relative or absolute difference of checksums that is allowed, because machines add in different orders."""


def of(model: nn.Module) -> dict[str, Fingerprint]:
    """Compute the checksums of the weights that do not train."""
    return fingerprint((name, weight) for name, weight in model.named_parameters() if not weight.requires_grad)


def save(sums: Mapping[str, Fingerprint], dtype: str, checkpoint: Path) -> None:
    """Write checksums into a checkpoint, if there are any."""
    if sums:
        replace_text(checkpoint / FILE, json.dumps({"dtype": dtype, "weights": sums}))


def require_same(sums: Mapping[str, Fingerprint], dtype: str, checkpoint: Path | None, path: str | Path) -> None:
    """Compare the start model that is in ``path`` now with the one that ``checkpoint`` was trained from.

    Nothing can be compared if an earlier version wrote the checkpoint, or if weights have another type now.

    Raises:
        RequestError: the weights differ.
    """
    record = _read(checkpoint / FILE) if checkpoint else {}
    if record.get("dtype") != dtype:
        return
    recorded_sums = {name: (float(plain), float(ordered)) for name, (plain, ordered) in record["weights"].items()}
    different = mismatches(recorded_sums, sums, TOLERANCE)
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise RequestError(
            f"the model in {path} is another one than when the run began: {different[0]}{more} of its weights differ",
            "model.path",
            f"put the model back that the run was started from: {checkpoint} does not hold it",
        )


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}
