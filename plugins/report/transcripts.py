"""The page has some episodes as text, of few enough runs and short enough that the page can still be mailed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import UncollapseError
from ...core.runs.directory import RunDirectory
from .data import RunData
from .page import Episode, Fold, Section

NAME = re.compile(r"step_([0-9]+)\.jsonl")
RUNS = 24
"""Largest number of runs whose episodes are shown."""
EPISODES = 3
"""Number of episodes of each run."""
LETTERS = 12_000
"""Largest number of characters of an episode, over all its turns."""


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
        episodes = [_episode(episode) for episode in RunDirectory(run.path).read_rollouts(step)[:EPISODES]]
    except (UncollapseError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Fold(run.title, f"step {step}", damage=str(error) or type(error).__name__)
    return Fold(run.title, f"step {step}", episodes=episodes)


def _episode(episode: Mapping[str, Any]) -> Episode:
    facts = [f"{key} {episode[key]}" for key in ("group", "member", "stop") if key in episode]
    facts.append(f"reward {float(episode['reward']):.2f}")
    texts = [("system", episode["system"])]
    for turn in episode["turns"]:
        texts += [("user", turn["user"]), ("policy", turn["response"])]
    turns, room = [], LETTERS
    for who, text in texts:
        if text and room > 0:
            turns.append((who, text if len(text) <= room else f"{text[:room]} …"))
        room -= len(text)
    return Episode(", ".join(facts), turns, max(0, -room))
