"""The command ``uncollapse transcripts``."""

from __future__ import annotations

from pathlib import Path

import click

from ....core.console.options import FilePath, json_option, print_json


@click.command("transcripts")
@click.argument("run", type=FilePath(file_okay=False))
@click.option("--step", type=click.IntRange(1), help="Training step; default: the last one that is recorded.")
@click.option("--page", type=FilePath(dir_okay=False), help="Write an HTML page to this file instead of printing.")
@json_option
def command(run: Path, step: int | None, page: Path | None, as_json: bool) -> None:
    """Show what the policy of a run wrote: prompts, responses, calls of tools with their results, rewards.

    RUN is a run directory. It has a few episodes of each step (``trainer.log_rollouts``), and the reasons why groups
    were lost.
    """
    from ....core.files import replace_text
    from ....core.runs.directory import RunDirectory
    from ...report.chat_text import chat_text
    from ...report.transcripts import chats, records_of, transcript_page

    directory = RunDirectory.open(run)
    number, records = records_of(directory, step)
    if as_json:
        print_json(records)
        return
    episodes = chats(records, str(directory.path / "rollouts" / f"step_{number}.jsonl"))
    if page:
        replace_text(page, transcript_page(directory.path.name, number, episodes))
        click.echo(f"page: {page}")
        return
    click.echo(f"step {number}\n")
    for episode in episodes:
        click.echo(f"{chat_text(episode)}\n")
