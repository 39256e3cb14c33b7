"""The tracker ``progress`` shows what a person wants to see while a run trains."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ...core.components import Tracker
from ...core.hookspecs import hookimpl

if TYPE_CHECKING:
    from ...core.runs.directory import RunDirectory

SHOWN = {
    "reward": "train/reward",
    "success": "train/success",
    "validation": "validation/success",
    "group std": "rollout/in_group_reward_std",
    "entropy": "actor/entropy",
    "kept": "rollout/filter_kept_ratio",
    "KL": "actor/kl",
}


@attrs.frozen
class Progress(Tracker):
    """Show a live line on a terminal, one plain line per step anywhere else.

    Shows the step, reward, success, the last validation success, the groups' reward std, entropy (nats), the share of
    groups that trained, KL (nats) where there is a KL term, and the time left at the pace so far.
    """

    def start(self, run: RunDirectory) -> ProgressSession:
        return ProgressSession(Console())


class ProgressSession:
    """The display of one run."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self.last: dict[str, float] = {}

    @hookimpl
    def run_started(self, run: RunDirectory, experiment: Any, step: int) -> None:
        self.name, self.steps = run.path.name, experiment.trainer.steps
        self.first, self.started = step, time.monotonic()
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4)
            self.live.start()

    @hookimpl
    def step_finished(self, run: RunDirectory, step: int, metrics: Mapping[str, float]) -> None:
        self.last.update({label: metrics[name] for label, name in SHOWN.items() if name in metrics})
        values = [f"{label} {value:.3g}" for label, value in self.last.items()]
        line = "  ".join(filter(None, [f"step {step}/{self.steps}", *values, self.left(step)]))
        if self.live:
            self.live.update(Text(f"{self.name}  {line}", no_wrap=True, overflow="ellipsis"))
        else:
            self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    @hookimpl
    def run_finished(self, run: RunDirectory, status: str, metrics: Mapping[str, float]) -> None:
        if self.live:
            self.live.stop()
        self.console.print(f"{status}: {run.path}", soft_wrap=True, highlight=False, markup=False)

    def left(self, step: int) -> str:
        """Say how much time is left, as ``1:02:03 left``, at the pace since the run was started or resumed."""
        done = step - self.first
        if done < 1:
            return ""
        left_s = (time.monotonic() - self.started) / done * (self.steps - step)
        return f"{timedelta(seconds=round(left_s))} left"
