"""The last state of a run that a checkpoint can be written of, also when an error ends it in the middle of a step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import attrs

from ....core.errors import RESUME
from ....core.runs.directory import RunDirectory
from ..processes.ranks import Ranks
from ..step.finished_step import FinishedStep
from ..step.loop import Loop
from .checkpoint import save_checkpoint

AGREE_S = 10.0
"""How long a rank whose run has failed waits for the others to fail as well; less than they are left to live."""


@attrs.frozen
class WholeState:
    """A step that is trained, and what its checkpoint needs beside weights and optimizers.

    These stay as they are until the next optimizer step begins. Sampling, scoring, filters, advantages and all that
    fails before it therefore costs the step that it fails in and no other.
    """

    finished: FinishedStep
    state: dict[str, Any]
    """Of the loop."""
    optimizer_steps: tuple[int, ...]

    @classmethod
    def of(cls, loop: Loop, finished: FinishedStep) -> WholeState:
        return cls(copy.deepcopy(finished), copy.deepcopy(loop.state_dict()), loop.optimizer_steps())

    @property
    def step(self) -> int:
        return self.finished.step

    def keep(self, loop: Loop, run: RunDirectory | None, ranks: Ranks, say: Callable[[str], None]) -> None:
        """Write the checkpoint of this step, unless it is there, or the weights are no longer those of it."""
        if loop.optimizer_steps() != self.optimizer_steps:
            last = run.latest() if run else None
            since = f"since {last.name}" if last else "from the start"
            say(f"the error came within the update of step {self.step + 1}: what was trained {since} is lost")
            return
        if not ranks.agree(f"step {self.step}, {self.finished.judged}", AGREE_S):
            say(f"no checkpoint of step {self.step} is written: the other ranks are still at work")
            return
        if ranks.broadcast(run is not None and self.step in run.saved_steps()):
            return
        if save_checkpoint(loop, run, self.finished, self.state):
            say(f"the checkpoint of step {self.step} is written: {RESUME} goes on from there")
