"""Pages have some episodes as chats, of few enough runs and short enough that a page can still be mailed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import RequestError, RunError, UncollapseError
from ...core.runs.directory import RunDirectory
from .chat import episode_of
from .data import RunData
from .page import Episode, Fold, Section, render

NAME = re.compile(r"step_([0-9]+)\.jsonl")
RUNS = 24
"""Largest number of runs whose episodes are shown."""
PLACES: Mapping[str, Callable[[int], int]] = {
    "first": lambda count: 0,
    "middle": lambda count: count // 2,
    "last": lambda count: count - 1,
}
"""Words for steps -> the place among so many recorded ones."""
EPISODES = 3
"""Number of episodes of each run in the page of a sweep; of lost groups there may be as many."""


def transcripts(runs: Sequence[RunData]) -> Section:
    """Return the last step that each of the first :data:`RUNS` runs has recorded."""
    shown: list[Fold] = []
    left = 0
    for run in runs:
        steps = recorded_steps(run.path)
        if steps and len(shown) < RUNS:
            shown.append(_run(run, steps[-1]))
        else:
            left += bool(steps)
    note = "A few episodes of the last step that was written down."
    if left:
        note += f" Of the first {RUNS} runs; {left} more have theirs in the directory rollouts of the run."
    return Section("What the policies wrote", note, folds=shown)


def recorded_steps(run: Path) -> list[int]:
    """Return the steps whose episodes a run has recorded, in order."""
    return sorted(int(match[1]) for file in (run / "rollouts").glob("*") if (match := NAME.fullmatch(file.name)))


def required_steps(run: RunDirectory) -> list[int]:
    """Return the steps that a run has recorded. Raises RequestError if there is none."""
    steps = recorded_steps(run.path)
    if not steps:
        fix = "train with trainer.log_rollouts above 0"
        raise RequestError("the run has recorded no episodes", str(run.path / "rollouts"), fix)
    return steps


def step_of(word: str, steps: Sequence[int], where: str) -> int:
    """Return the step that a number or one of :data:`PLACES` means among ``steps``.

    Raises RequestError if the step is not among them; ``where`` names what lacks it.
    """
    step = steps[PLACES[word](len(steps))] if word in PLACES else int(word)
    if step not in steps:
        raise RequestError(f"no episodes of step {step} are recorded", where, f"give one of {some_of(steps)}")
    return step


def some_of(steps: Sequence[int]) -> str:
    """Name the steps, of many the first and the last ones."""
    return ", ".join(map(str, steps if len(steps) < 9 else [*steps[:4], "...", *steps[-4:]]))


def records_of(run: RunDirectory, word: str) -> tuple[int, list[dict[str, Any]]]:
    """Return a step, by its number or one of :data:`PLACES`, and the records of its episodes.

    Raises:
        RequestError: the step is not recorded.
        RunError: its file is damaged.
    """
    step = step_of(word, required_steps(run), str(run.path))
    return step, run.read_rollouts(step)


def chats(records: Sequence[Mapping[str, Any]], where: str) -> list[Episode]:
    """Return what is shown of records. Raises RunError if one is none; ``where`` is the file."""
    try:
        return [episode_of(record) for record in records]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"an episode is damaged: {type(error).__name__}: {error}", where) from error


def transcript_page(run: str, step: int, episodes: Sequence[Episode]) -> str:
    """Return the page of a step's episodes as text. Raises MissingExtraError without jinja2."""
    many = f"{len(episodes)} episode" + ("" if len(episodes) == 1 else "s")
    folds = [
        Fold(f"Episode {number}", ", ".join(chip.text for chip in episode.chips), episodes=[episode], is_open=True)
        for number, episode in enumerate(episodes, 1)
    ]
    return render(f"Step {step} of {run}", many, [], [Section("What the policy wrote", folds=folds)])


def _run(run: RunData, step: int) -> Fold:
    try:
        episodes = chats(_some(RunDirectory(run.path).read_rollouts(step)), f"step_{step}.jsonl")
    except (UncollapseError, OSError) as error:
        return Fold(run.title, f"step {step}", damage=str(error) or type(error).__name__)
    return Fold(run.title, f"step {step}", episodes=episodes)


def _some(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the first episodes, then the first lost groups."""
    played = [record for record in records if "lost" not in record]
    return [*played[:EPISODES], *[record for record in records if "lost" in record][:EPISODES]]
