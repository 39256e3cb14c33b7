"""The tracker ``jsonl`` writes the metrics of a run into the run's own directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from ...core.components import Tracker
from ...core.hookspecs import hookimpl

if TYPE_CHECKING:
    from ...core.runs.directory import RunDirectory


@attrs.frozen
class Jsonl(Tracker):
    """Write one JSON object per step into ``metrics.jsonl``, complete before the next step begins.

    Reports, ``uncollapse detect`` and resumed runs read this file, so every run has this tracker, named or not.
    """

    def start(self, run: RunDirectory) -> JsonlSession:
        return JsonlSession()


class JsonlSession:
    """Appends each finished step."""

    @hookimpl
    def step_finished(self, run: RunDirectory, step: int, metrics: Mapping[str, float]) -> None:
        run.append_metrics(step, metrics)
