"""The command ``uncollapse transcripts``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ....core.console.options import FilePath, json_option, print_json

if TYPE_CHECKING:
    from ....core.runs.directory import RunDirectory

NAMED = ("first", "middle", "last")


class Steps(click.ParamType[list[str]]):
    """Steps are whole numbers of 1 or more, or first, middle, last; with commas between them."""

    name = "STEP"

    def convert(
        self, value: str | list[str], param: click.Parameter | None, context: click.Context | None
    ) -> list[str]:
        """Return the words."""
        words = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
        for word in words:
            if word not in NAMED and not (word.isascii() and word.isdigit() and 0 < int(word) < 10**12):
                self.fail(f"{word!r} is no step: give a number of 1 or more, or {', '.join(NAMED)}", param, context)
        return words


@click.command("transcripts")
@click.argument("runs", metavar="RUN [OTHER]", nargs=-1, required=True, type=FilePath(file_okay=False))
@click.option(
    "--step",
    "steps",
    type=Steps(),
    default="last",
    help="Training step, or first, middle or last of those that are recorded; of two runs also several, with commas. "
    "[default: last]",
)
@click.option("--page", type=FilePath(dir_okay=False), help="Write an HTML page to this file instead of printing.")
@json_option
def command(runs: tuple[Path, ...], steps: list[str], page: Path | None, as_json: bool) -> None:
    """Show what the policy of a run wrote: prompts, responses, calls of tools with their results, rewards.

    RUN is a run directory. It has a few episodes of each step (``trainer.log_rollouts``), and the reasons why groups
    were lost. With OTHER, a second run, both are shown side by side, on the same tasks in the same step, with how
    alike the responses of each run are.
    """
    from ....core.runs.directory import RunDirectory

    if len(runs) > 2:
        raise click.UsageError(f"one run is shown, or two side by side: {len(runs)} were given")
    first, *others = [RunDirectory.open(run) for run in runs]
    if others:
        _two(first, others[0], steps, page, as_json)
    elif len(steps) > 1:
        raise click.UsageError("of one run one step is shown: give one --step")
    else:
        _one(first, steps[0], page, as_json)


def _one(run: RunDirectory, step: str, page: Path | None, as_json: bool) -> None:
    from ....core.files import replace_text
    from ...report.chat_text import chat_text
    from ...report.transcripts import chats, records_of, transcript_page

    number, records = records_of(run, step)
    if as_json:
        print_json(records)
        return
    episodes = chats(records, str(run.path / "rollouts" / f"step_{number}.jsonl"))
    if page:
        replace_text(page, transcript_page(run.path.name, number, episodes))
        click.echo(f"page: {page}")
        return
    click.echo(f"step {number}\n")
    for episode in episodes:
        click.echo(f"{chat_text(episode)}\n")


def _two(first: RunDirectory, second: RunDirectory, steps: list[str], page: Path | None, as_json: bool) -> None:
    import sys

    from rich.console import Console

    from ....core.files import replace_text
    from ...report import side_by_side_text
    from ...report.side_by_side import side_by_side

    both = side_by_side((first, second), steps)
    if as_json:
        print_json(side_by_side_text.to_dict(both))
    elif page:
        replace_text(page, side_by_side_text.page(both))
        click.echo(f"page: {page}")
    else:
        console = Console(highlight=False) if sys.stdout.isatty() else Console(width=160, highlight=False)
        side_by_side_text.print_side_by_side(both, console)
