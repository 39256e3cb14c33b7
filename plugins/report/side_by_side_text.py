"""Two runs side by side are shown in a terminal, as a page and as plain data."""

from __future__ import annotations

from typing import Any

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...core.terminal import escaped
from .chat import episode_of
from .chat_text import chat_text
from .page import Cell, Section, Versus, render
from .side_by_side import Both, Record, Side, SideBySide, Step
from .table import number, print_table
from .transcripts import chats

TWO_COLUMNS = 100
"""Characters of a line from which on a terminal has the runs next to each other."""
LETTERS = 160
"""Characters of the most frequent response that are shown."""


def print_side_by_side(both: SideBySide, console: Console) -> None:
    """Print each step: what is known of the runs, how alike their responses are, and their chats."""
    for step in both.steps:
        facts = [{escaped(column): text for column, text in row.items()} for row in rows(both, step)]
        print_table(f"step {step.step}", facts, console)
        for line in sentences(both, step):
            console.print(Text(escaped(line)))
        for task in step.tasks:
            console.print()
            _print_task(both, task, console)
        console.print()


def _print_task(both: SideBySide, task: Both, console: Console) -> None:
    texts = [Text(_chat(record)) for record in task.records]
    heads = [Text(escaped(name), style="bold") for name in both.names]
    if console.width >= TWO_COLUMNS:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
        for head in heads:
            table.add_column(head, ratio=1, overflow="fold")
        table.add_row(*texts)
        console.print(table)
    else:
        for head, text in zip(heads, texts, strict=True):
            console.print(head, text, sep="\n")


def _chat(record: Record | None) -> str:
    return chat_text(episode_of(record)) if record else "no further episode"


def rows(both: SideBySide, step: Step) -> list[dict[str, str]]:
    """Return the table of a step: a line for each fact, a column for each run."""
    lines = [
        {"": what, **{name: _fact(side, what, step.step) for name, side in zip(both.names, step.sides, strict=True)}}
        for what in step.sides[0].facts
        if any(side.facts[what] for side in step.sides)
    ]
    return [{"": "status", **dict(zip(both.names, both.statuses, strict=True))}, *lines]


def _fact(side: Side, what: str, step: int) -> str:
    fact = side.facts[what]
    if fact is None:
        return "not measured"
    return number(fact[1]) + ("" if fact[0] == step else f" (step {fact[0]})")


def sentences(both: SideBySide, step: Step) -> list[str]:
    """Return how alike the responses of each run are, and what the runs do not have in common."""
    lines = []
    for name, side in zip(both.names, step.sides, strict=True):
        lines.append(f"{name}: {side.alike.sentence}.")
        if side.alike.prompts_of_most_frequent > 1:
            text = " ".join(side.alike.most_frequent.split())
            shown = f"{text[:LETTERS]}{'…' * (len(text) > LETTERS)}" if text else "(empty)"
            lines.append(f"{name} says most often: {shown}")
    if not step.in_common:
        lines.append("No task of this step is recorded by both runs: their episodes stand in the order of the records.")
    elif unmatched := [
        f"{side.unmatched} of {name}" for name, side in zip(both.names, step.sides, strict=True) if side.unmatched
    ]:
        lines.append(f"Episodes of tasks that the other run has not recorded, left out here: {', '.join(unmatched)}.")
    return lines


def page(both: SideBySide) -> str:
    """Return the page as text. Raises MissingExtraError without jinja2, and RunError if an episode is damaged."""
    sections = [_section(both, step) for step in both.steps]
    subtitle = "The same tasks in the same step, one below the other on a narrow screen."
    return render(f"{both.names[0]} beside {both.names[1]}", subtitle, [], sections)


def _section(both: SideBySide, step: Step) -> Section:
    pairs = []
    for at, task in enumerate(step.tasks, 1):
        where = f"step_{step.step}.jsonl"
        sides = [chats([record], where)[0] if record else None for record in task.records]
        pairs.append(Versus(f"Task {at}" if step.in_common else f"Episode {at}", both.names, (sides[0], sides[1])))
    table: list[dict[str, Cell]] = [dict(row) for row in rows(both, step)]
    return Section(f"Step {step.step}", rows=table, lines=sentences(both, step), pairs=pairs)


def to_dict(both: SideBySide) -> dict[str, Any]:
    """Return everything as plain data."""
    return {
        "runs": [{"run": name, "status": status} for name, status in zip(both.names, both.statuses, strict=True)],
        "steps": [
            {
                "step": step.step,
                "tasks_in_common": step.in_common,
                "sides": [attrs.asdict(side) for side in step.sides],
                "tasks": [{"prompt": task.prompt, "episodes": list(task.records)} for task in step.tasks],
            }
            for step in both.steps
        ],
    }
