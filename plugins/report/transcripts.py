"""The page has some episodes as chats, of few enough runs and short enough that the page can still be mailed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import UncollapseError
from ...core.runs.directory import RunDirectory
from .chat import episode_of
from .data import RunData
from .page import Fold, Section

NAME = re.compile(r"step_([0-9]+)\.jsonl")
RUNS = 24
"""Largest number of runs whose episodes are shown."""
EPISODES = 3
"""Number of episodes of each run; of lost groups there may be as many."""


def transcripts(runs: Sequence[RunData]) -> Section:
    """Return the last step that each of the first :data:`RUNS` runs has recorded."""
    shown: list[Fold] = []
    left = 0
    for run in runs:
        names = [file.name for file in (run.path / "rollouts").glob("step_*.jsonl")]
        steps = [int(match[1]) for match in map(NAME.fullmatch, names) if match]
        if steps and len(shown) < RUNS:
            shown.append(_run(run, max(steps)))
        else:
            left += bool(steps)
    note = "A few episodes of the last step that was written down."
    if left:
        note += f" Of the first {RUNS} runs; {left} more have theirs in the directory rollouts of the run."
    return Section("What the policies wrote", note, folds=shown)


def _run(run: RunData, step: int) -> Fold:
    try:
        episodes = [episode_of(record) for record in _some(RunDirectory(run.path).read_rollouts(step))]
    except (UncollapseError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Fold(run.title, f"step {step}", damage=str(error) or type(error).__name__)
    return Fold(run.title, f"step {step}", episodes=episodes)


def _some(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the first episodes, then the first lost groups."""
    played = [record for record in records if "lost" not in record]
    return [*played[:EPISODES], *[record for record in records if "lost" in record][:EPISODES]]
