"""Settings by their dotted keys, with values as people write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from .experiment import Experiment
from .identity import UNCOUNTED
from .plain_data import plain
from .spec import format_value, read_spec


def flat(data: Any, prefix: str = "") -> dict[str, str]:
    """Dotted key -> value as text, of plain data such as :func:`~.config.to_dict` gives; a component is one word."""
    if not isinstance(data, dict):
        return {prefix: format_value(data)}
    if "name" in data:
        return {prefix: str(read_spec(data))}
    return {
        dotted: text
        for key, value in data.items()
        for dotted, text in flat(value, f"{prefix}.{key}" if prefix else key).items()
    }


def differing(experiments: Iterable[Experiment]) -> list[dict[str, str]]:
    """Of each experiment the settings in which it differs from any of the others, by dotted key as text.

    What does not count for what a run computes (:data:`~.identity.UNCOUNTED`) is left out.
    """
    experiments = list(experiments)
    settings: list[dict[str, str]] = [{} for _ in experiments]
    for field in attrs.fields(Experiment):
        sections = [getattr(experiment, field.name) for experiment in experiments]
        # most sections are the same in all of them, and to write them out takes longer than to compare them
        if field.alias in UNCOUNTED or all(section == sections[0] for section in sections):
            continue
        written = [flat(plain(section), str(field.alias)) for section in sections]
        for key in dict.fromkeys(key for section in written for key in section):
            if len({section.get(key) for section in written}) > 1:
                for setting, section in zip(settings, written, strict=True):
                    setting |= {key: section[key]} if key in section else {}
    return settings
