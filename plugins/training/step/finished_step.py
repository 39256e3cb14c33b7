"""A finished step keeps everything that will be recorded about it, and its checkpoint holds the same.

If the process ends between checkpoint and records, a resumed run finishes the step from the checkpoint: metrics,
transcript, verdicts and the trackers' point are those that an undisturbed run would have written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ....core.components import Verdict
from ....core.files import replace_text
from ....core.runs.records import read_rollouts, text

TRANSCRIPT = "rollouts.jsonl"
"""The file of a checkpoint that holds a few episodes of its step as text."""


@attrs.define
class FinishedStep:
    """A step of a run after its last optimizer step."""

    step: int
    """The number of the step, from 1; 0 is the validation before training."""
    metrics: dict[str, float]
    """The metrics that its record will hold."""
    judged: bool = False
    """Whether the detectors have judged the step, after its validation if one was due."""
    verdicts: list[dict[str, Any]] = attrs.field(factory=list)
    """The first verdict of each detector, up to this step."""
    verdict: dict[str, Any] | None = None
    """The verdict that stops the run."""
    broken_detectors: dict[str, str] = attrs.field(factory=dict)
    """Detector -> the reason why it is left out."""
    left_out: list[str] = attrs.field(factory=list)
    """Detectors that are left out since this step."""
    overruled: list[str] = attrs.field(factory=list)
    """Detectors that no longer stop the run, because a user chose to continue it."""
    transcript: list[dict[str, Any]] = attrs.field(factory=list)
    """A few episodes as text."""

    def hear(self, verdicts: Sequence[Verdict], broken: Mapping[str, str]) -> None:
        """Take the verdicts of this step: keep the first of each detector, and the first one that stops the run."""
        earlier = {verdict["detector"] for verdict in self.verdicts}
        new = [attrs.asdict(verdict) for verdict in verdicts if verdict.detector not in earlier]
        self.verdicts = [*self.verdicts, *new]
        stopping = (verdict for verdict in verdicts if verdict.stop and verdict.detector not in self.overruled)
        self.verdict = next(map(attrs.asdict, stopping), None)
        self.left_out = [name for name in broken if name not in self.broken_detectors]
        self.broken_detectors = dict(broken)

    def overrule(self, detectors: Sequence[str]) -> None:
        """Let the run go on whatever verdicts these detectors have given or will give."""
        self.overruled = list(dict.fromkeys([*self.overruled, *detectors]))
        if self.verdict is not None and self.verdict["detector"] in self.overruled:
            self.verdict = None

    def news(self) -> list[str]:
        """Return the verdicts of this step, and the detectors that it left out, as lines of a log."""
        lines = []
        for verdict in self.verdicts:
            if verdict["step"] == self.step:
                how = "stopped by" if verdict == self.verdict else "noticed by"
                lines.append(f"{how} {verdict['detector']} at step {self.step}: {verdict['reason']}")
        for name in self.left_out:
            lines.append(f"the detector {name} is left out from here on: {self.broken_detectors[name]}")
        return lines

    def state(self) -> dict[str, Any]:
        """Return what goes into ``state.json``; :meth:`save` writes the rest."""
        return {key: value for key, value in attrs.asdict(self).items() if key not in ("step", "transcript")}

    def save(self, checkpoint: Path) -> None:
        """Write the transcript into a checkpoint."""
        if self.transcript:
            replace_text(checkpoint / TRANSCRIPT, text(self.transcript))

    @classmethod
    def load(cls, checkpoint: Path) -> FinishedStep:
        """Read the finished step of a checkpoint."""
        state = json.loads((checkpoint / "state.json").read_text("utf-8"))
        names = ("judged", "verdicts", "verdict", "broken_detectors", "left_out", "overruled")
        stored = {key: state[key] for key in names if key in state}
        transcript = read_rollouts(checkpoint / TRANSCRIPT)
        metrics = {key: math.nan if value is None else value for key, value in state["metrics"].items()}
        return cls(state["step"], metrics, **{"judged": True, **stored}, transcript=transcript)
