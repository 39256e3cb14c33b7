"""A step that is trained: all that is to be written down of it, which its checkpoint holds as well.

Whatever ends the process between the two, a resumed run finishes the step from the checkpoint: metrics, transcript,
verdicts and the trackers' point are those that an undisturbed run would have written.
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
"""In a checkpoint: the episodes of its step that are kept as text."""


@attrs.define
class FinishedStep:
    """Step ``step`` of a run, after its last optimizer step."""

    step: int
    metrics: dict[str, float]
    judged: bool = False
    """Whether it is validated, where that is due, and the detectors have judged it."""
    verdicts: list[dict[str, Any]] = attrs.field(factory=list)
    """What each detector said first, up to this step."""
    verdict: dict[str, Any] | None = None
    """The one that stops the run."""
    broken_detectors: dict[str, str] = attrs.field(factory=dict)
    """Detector -> why it is left out from now on."""
    left_out: list[str] = attrs.field(factory=list)
    """Those that are left out since this step."""
    overruled: list[str] = attrs.field(factory=list)
    """Detectors that do not stop the run any more, since somebody wants it to go on."""
    transcript: list[dict[str, Any]] = attrs.field(factory=list)
    """A few episodes as text."""

    def hear(self, verdicts: Sequence[Verdict], broken: Mapping[str, str]) -> None:
        """Take what the detectors say; of each its first word is kept, and the first that stops."""
        spoken = {verdict["detector"] for verdict in self.verdicts}
        self.verdicts = [*self.verdicts, *(attrs.asdict(each) for each in verdicts if each.detector not in spoken)]
        stopping = (each for each in verdicts if each.stop and each.detector not in self.overruled)
        self.verdict = next(map(attrs.asdict, stopping), None)
        self.left_out = [name for name in broken if name not in self.broken_detectors]
        self.broken_detectors = dict(broken)

    def overrule(self, detectors: Sequence[str]) -> None:
        """Let the run go on past what these detectors have said, and will say."""
        self.overruled = list(dict.fromkeys([*self.overruled, *detectors]))
        if self.verdict is not None and self.verdict["detector"] in self.overruled:
            self.verdict = None

    def news(self) -> list[str]:
        """What the detectors have said in this step, as lines of a log."""
        said = []
        for verdict in self.verdicts:
            if verdict["step"] == self.step:
                how = "stopped by" if verdict == self.verdict else "noticed by"
                said.append(f"{how} {verdict['detector']} at step {self.step}: {verdict['reason']}")
        said += [
            f"the detector {name} is left out from here on: {self.broken_detectors[name]}" for name in self.left_out
        ]
        return said

    def state(self) -> dict[str, Any]:
        """What goes into ``state.json``; :meth:`save` writes the rest."""
        return {key: value for key, value in attrs.asdict(self).items() if key not in ("step", "transcript")}

    def save(self, checkpoint: Path) -> None:
        """Write the transcript into a checkpoint."""
        if self.transcript:
            replace_text(checkpoint / TRANSCRIPT, text(self.transcript))

    @classmethod
    def load(cls, checkpoint: Path) -> FinishedStep:
        """That of a checkpoint."""
        state = json.loads((checkpoint / "state.json").read_text("utf-8"))
        names = ("judged", "verdicts", "verdict", "broken_detectors", "left_out", "overruled")
        known = {key: state[key] for key in names if key in state}
        transcript = read_rollouts(checkpoint / TRANSCRIPT)
        metrics = {key: math.nan if value is None else value for key, value in state["metrics"].items()}
        return cls(state["step"], metrics, **{"judged": True, **known}, transcript=transcript)
