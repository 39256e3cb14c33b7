"""Episodes as text in the page, of so many runs and at such a length that the page can still be mailed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ...core.errors import UncollapseError
from ...core.runs.directory import RunDirectory
from .data import RunData

NAME = re.compile(r"step_([0-9]+)\.jsonl")
RUNS = 24
EPISODES = 3
"""Of each run."""
LETTERS = 12_000
"""Of each episode, over all its turns."""


def transcripts(runs: Sequence[RunData]) -> tuple[str, str]:
    """(what is shown, the HTML) of the last step that each of the first :data:`RUNS` runs wrote down."""
    shown: list[str] = []
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
    return note, "".join(shown)


def _run(run: RunData, step: int) -> str:
    title = f"<b>{escape(run.title)}</b> <span class='soft'>step {step}</span>"
    try:
        episodes = RunDirectory(run.path).read_rollouts(step)[:EPISODES]
        body = "".join(map(_episode, episodes))
    except (UncollapseError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        body = f"<p>damaged: {escape(str(error))}</p>"
    return f"<details><summary>{title}</summary>{body}</details>"


def _episode(episode: Mapping[str, Any]) -> str:
    facts = [f"{key} {episode[key]}" for key in ("group", "member", "stop") if key in episode]
    facts.append(f"reward {float(episode['reward']):.2f}")
    texts = [("system", episode["system"])]
    for turn in episode["turns"]:
        texts += [("user", turn["user"]), ("policy", turn["response"])]
    turns, room = "", LETTERS
    for who, text in texts:
        if text and room > 0:
            turns += f"<div class='turn'><span>{who}</span><pre class='{who}'>{escape(_cut(text, room))}</pre></div>"
        room -= len(text)
    if room < 0:
        turns += f"<p class='soft'>{-room} more characters are in the run's file</p>"
    return f"<div class='episode'><span class='soft'>{escape(', '.join(facts))}</span>{turns}</div>"


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[:room]} …"
