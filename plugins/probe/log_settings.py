"""The settings of the detailed log say how much of a run is logged, and where."""

from __future__ import annotations

from string import Formatter
from typing import Any, Literal

import attrs
from attrs.validators import ge, in_

LEVELS = ("minimal", "standard", "detailed", "debug")
"""Levels from the least to the most; each has what the one before it has."""
PLACEHOLDERS = ("date", "time", "checkpoint")


def _check_template(instance: Any, attribute: Any, template: str) -> None:
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"is no template: {error}") from error
    for _, name, form, conversion in parts:
        if name is not None and (name not in PLACEHOLDERS or form or conversion):
            allowed = ", ".join(f"{{{placeholder}}}" for placeholder in PLACEHOLDERS)
            raise ValueError(f"has a placeholder {{{name}}}, and may have only {allowed}")
    if not template or "/" in template or "\0" in template:
        raise ValueError("must be the name of a file, without any directory")


@attrs.frozen
class DetailedLogging:
    """The detailed log of a run of the probe has a main file, a summary and the configuration, in a folder per day."""

    enabled: bool = False
    level: Literal["minimal", "standard", "detailed", "debug"] = attrs.field(default="standard", validator=in_(LEVELS))
    """Amount that is logged. ``minimal``: results and times; ``standard``: also statistics of the batches and the
    ground truth; ``detailed``: also each sequence with its text, importance weights, results of the phases; ``debug``:
    also tokens and tensors."""
    log_sequences: bool = True
    """Whether prompts and responses are logged, from ``detailed`` on."""
    log_tokens: bool = False
    """Whether log-probs and entropies are logged token by token, at ``debug``."""
    log_raw_tensors: bool = False
    """Whether small tensors are logged as they are, at ``debug``."""
    output_directory: str = "logs"
    compress: bool = True
    """Whether the main file is compressed with gzip."""
    filename_template: str = attrs.field(default="entropy_probe_{time}_{checkpoint}", validator=_check_template)
    """Name of the files of a run, from ``{date}`` (YYYY-MM-DD), ``{time}`` (HH-MM-SS, local time) and
    ``{checkpoint}``, the name of its directory; runs that would share a name are numbered."""
    max_files: int = attrs.field(default=50, validator=ge(0))
    """Number of runs, not files, whose logs are kept in the output directory; the oldest are deleted. 0 keeps all."""
