"""The directory of a point is named after what the point changes; cases name it themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from ...core.compose.experiment import Experiment
from ...core.compose.plain_data import plain
from ...core.compose.problems import ABSENT
from ...core.compose.spellings import full
from ...core.errors import RequestError
from ...core.runs.labels import LABEL_LENGTH, safe
from .variation import Overrides, Variation, same_value


def directories(base: Experiment, settings: Sequence[Variation]) -> list[str]:
    """Return the values of all axes; the base's own seed is left out where another axis tells of the point."""
    own_seed = {"seed": base.seed}
    labels = []
    for setting in settings:
        words = [choice.label for choice in setting.choices if choice.overrides != own_seed]
        labels.append("__".join(words or [choice.label for choice in setting.choices]) or "base")
    counts = Counter(map(str.lower, labels))  # some file systems take A and a for one
    return [
        label
        if len(label) <= LABEL_LENGTH and counts[label.lower()] == 1
        else f"{label[: LABEL_LENGTH - 9]}-{sha256(repr(sorted(setting.overrides.items())).encode()).hexdigest()[:8]}"
        for label, setting in zip(labels, settings, strict=True)
    ]


def case_directories(base: Experiment, settings: Sequence[Variation]) -> list[str]:
    """Return the case's own name, then what the axes change about the base."""
    data = plain(base)
    labels = []
    for setting in settings:
        assert setting.case is not None
        changes = [choice.label for choice in setting.choices if not _stands_in(data, choice.overrides)]
        labels.append("__".join([safe(setting.case.label), *changes]))
        if len(labels[-1]) > LABEL_LENGTH:
            raise RequestError(
                f"a point would be called {labels[-1][:40]}..., {len(labels[-1])} characters",
                fix=f"give its case a label of fewer than {LABEL_LENGTH}",
            )
    counts = Counter(map(str.lower, labels))
    if twice := [label for label in labels if counts[label.lower()] > 1]:
        raise RequestError(
            f"two points of the sweep are called {twice[0]!r}", fix="drop one of the values, or write it differently"
        )
    return labels


def _stands_in(data: Mapping[str, Any], overrides: Overrides) -> bool:
    return all(same_value(_at(data, full(key)), value) for key, value in overrides.items())


def _at(data: Any, key: str) -> Any:
    """Return what stands under a dotted key, or ``ABSENT``."""
    for part in key.split("."):
        data = data.get(part, ABSENT) if isinstance(data, Mapping) else ABSENT
    return data
