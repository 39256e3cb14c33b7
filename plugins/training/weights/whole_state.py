"""A run keeps the last state that a checkpoint can be written of, in case an error ends it in the middle of a step."""

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
"""Seconds that a rank whose run has failed waits for the others to fail as well; they are killed later than that."""


@attrs.frozen
class WholeState:
    """A whole state is that after a trained step, with all that its checkpoint needs beside weights and optimizers.

    Weights and optimizers stay as they are until the next optimizer step begins. So an error before that, in sampling,
    scoring, filters or advantages, costs the step in which it happens and no other.
    """

    finished: FinishedStep
    """Step that was trained."""
    state: dict[str, Any]
    """State of the loop."""
    optimizer_steps: tuple[int, ...]
    """Number of optimizer steps that each engine has begun, by which a later change of the weights is noticed."""

    @classmethod
    def of(cls, loop: Loop, finished: FinishedStep) -> WholeState:
        """Copy the state of the loop after a step."""
        return cls(copy.deepcopy(finished), copy.deepcopy(loop.state_dict()), loop.optimizer_steps())

    @property
    def step(self) -> int:
        """Number of the step that was trained."""
        return self.finished.step

    def keep(self, loop: Loop, run: RunDirectory | None, ranks: Ranks, say: Callable[[str], None]) -> None:
        """Write the checkpoint of this step, unless there is one, or the weights are no longer those of the step."""
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
