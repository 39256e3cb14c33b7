"""The definition of a sweep says which experiment it runs, what is varied, and what its names and files tell of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ...core.compose.config import Source
from ..report.claim import Claim
from .layout import Layout
from .variation import Case


@attrs.frozen
class Definition:
    """A definition holds what a sweep says; :class:`.sweep.Sweep` is one that can be run."""

    experiment: Source
    """A registered name, the path of a YAML file, a mapping, or a composed experiment."""
    axes: Mapping[str, Any] = attrs.field(factory=dict)
    """Values by dotted key; see :mod:`.points` for joint axes. The last axis varies fastest."""
    name: str | None = None
    overrides: Mapping[str, Any] = attrs.field(factory=dict)
    """Values by dotted key that are laid over the experiment before the axes."""
    exclude: Sequence[Mapping[str, Any]] = ()
    """Combinations to leave out."""
    root: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    """Directory to run in unless :meth:`run` is given one; ``None``: ``runs/<name>``."""
    cases: Sequence[Case] = ()
    """Settings with names of their own; the axes are crossed with each."""
    layout: Layout = attrs.field(factory=Layout)
    """Templates that say where the runs are below the root, and what they are called."""
    project: str | None = None
    """Project of the runs at W&B, unless the experiment says one."""
    engine: Mapping[str, Any] = attrs.field(factory=dict)
    """Parameters of the rollout engine, for engines that have them: resources, which change no result."""
    notices: Sequence[str] = ()
    """Notes for whoever runs it."""
    missing: str = ""
    """Reason why it can be shown, but not run here."""
    fixed: Mapping[str, str] = attrs.field(factory=dict)
    """Keys that names and files tell of -> why they cannot be changed from outside."""
    ranked: bool = False
    """Whether the report ranks the points of the sweep against the first one."""
    claims: Sequence[Claim] = ()
    """Claims that the report checks."""
    options: Mapping[str, str] = attrs.field(factory=dict)
    """Keys that the sweep has an option for -> the option, for messages."""

    @property
    def title(self) -> str:
        return self.name or (Path(self.experiment).stem if isinstance(self.experiment, str | Path) else "sweep")
