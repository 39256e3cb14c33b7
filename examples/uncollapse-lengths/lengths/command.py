"""The command ``uncollapse lengths`` prints response lengths of runs."""

from __future__ import annotations

import click
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory

METRIC = "train/response_length"


@click.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--last", type=click.IntRange(min=1), help="Only the last so many steps.")
def lengths(runs: tuple[str, ...], last: int | None) -> None:
    """Print the mean response length (tokens per episode) of each step of RUNS, one column for each run."""
    columns = [_lengths(run) for run in runs]
    steps = sorted(set().union(*columns))[-(last or 0) :]
    click.echo("\t".join(["step", *runs]))
    for step in steps:
        cells = [f"{column[step]:.1f}" if step in column else "-" for column in columns]
        click.echo("\t".join([str(step), *cells]))


def _lengths(run: str) -> dict[int, float]:
    """Return the length of each step. Errors of uncollapse become one message and an exit code."""
    records = RunDirectory.open(run).metrics()
    by_step = {record["step"]: record[METRIC] for record in records if METRIC in record}
    if not by_step:
        raise RequestError(f"the run has no metric {METRIC}", run, "wait for its first step")
    return by_step
