"""The command ``uncollapse probe gradients`` prints and writes gradient norms by bucket of a group metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ....core.console.options import FilePath, json_option, plugin_option, print_columns, print_json, trust_option
from .options import checkpoint_options, over, ranks_option, set_option, start_ranks

_, CONFIG = checkpoint_options("By default what the run that wrote the checkpoint says.")


def _edges(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    from ..gradients.buckets import edges_problem

    try:
        edges = tuple(float(item) for item in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers; write 1,2,3,4,5") from None
    if problem := edges_problem(edges):
        raise click.BadParameter(f"{text!r}: {problem}; write 1,2,3,4,5")
    return edges


@click.command("gradients")
@click.argument("run", metavar="RUN", type=FilePath())
@CONFIG
@click.option("--by", default="reward_variance", show_default=True, metavar="METRIC", help="A group metric, by name.")
@click.option("--step", type=click.IntRange(min=1), help="The checkpoint of RUN after this step (default: the last).")
@click.option("--bu", type=click.IntRange(min=1), help="Prompts of U, each a group (default: 32).")
@click.option("--buckets", type=click.IntRange(min=1), help="Buckets of as many groups each (default: 6).")
@click.option("--edges", callback=_edges, metavar="1,2,3,4,5", help="Scores between the buckets, instead.")
@click.option(
    "--results",
    type=FilePath(),
    default=Path("results"),
    show_default=True,
    help="Where the files go, under gradients/.",
)
@click.option("--label", help="Begins the name of the directory.")
@set_option
@ranks_option
@trust_option
@json_option
@plugin_option
def command(
    run: Path,
    config: str | None,
    by: str,
    step: int | None,
    bu: int | None,
    buckets: int | None,
    edges: tuple[float, ...] | None,
    results: Path,
    label: str | None,
    overrides: tuple[str, ...],
    ranks: int,
    as_json: bool,
) -> None:
    """Say how large the task, KL and entropy gradients are, by bucket of a group metric.

    RUN is a run directory (then its last checkpoint), or a checkpoint. Groups are drawn from its policy, sorted into
    buckets by their score, and each bucket is taken for a batch: norms of the gradients of all terms of the run's loss,
    with and without sampling noise, and with standard errors over groups.
    """
    from ..experiments.files import check_label
    from ..own_run import own_run
    from ..read_config import read_config

    check_label(label)
    if buckets is not None and edges is not None:
        raise click.UsageError("--buckets and --edges exclude each other: buckets have one size, or fixed edges")
    checkpoint = _checkpoint(run, step)
    own_run(checkpoint)  # its plugins may have the metric
    # the configuration is read before ranks start, so that its problems are told once
    read = read_config(config or {}, over(checkpoint, overrides, {"batch_config.B_U": bu}))
    from ..gradients.metric import check_groups, named_metric

    metric = named_metric(by)
    check_groups(metric, read.config.batch_config.G)
    start_ranks(ranks)
    from ...training.processes.ranks import start_ranks as join_ranks
    from ..gradients.buckets import BUCKETS
    from ..gradients.run import DATA, PICTURE, TABLE, gradients, write
    from ..session import Session

    place = join_ranks()
    for line in read.ignored if place.first else ():
        click.echo(f"ignored: {line}", err=True)
    session = Session(read.config, ranks=place)
    result = gradients(session, metric, buckets=buckets or BUCKETS, edges=edges)
    if not place.first:
        return
    directory = write(result, session, results, label)
    if as_json:
        print_json(result)
        return
    _print(result)
    click.echo(f"\n{directory}: {DATA}, {TABLE}, {PICTURE}")


def _checkpoint(run: Path, step: int | None) -> Path:
    """Return the checkpoint of a run after a step; without a step what was given. Raises RequestError."""
    if step is None:
        return run
    from ....core.errors import RequestError
    from ....core.runs.checkpoints import step_of
    from ....core.runs.directory import RunDirectory

    directory = RunDirectory.open(run)
    saved = {step_of(path): path for path in directory.checkpoints()}
    if step not in saved:
        there = ", ".join(map(str, saved))
        fix = f"choose a step that is saved: {there}" if saved else "train it first: no checkpoint of it is complete"
        raise RequestError(f"the run has no checkpoint of step {step}", str(run), fix)
    return saved[step]


def _print(result: dict[str, Any]) -> None:
    """Print what was measured, a table for each term, and what limits it."""
    click.echo(f"{result['B_U']} x {result['G']} sequences of U, groups by {result['by']}")
    step = result["step"]
    for line in ("; ".join(step["loss"]), step["said_by"], *(f"not in it: {what}" for what in step["left_out"])):
        click.echo(f"step  {line}")
    for term, about in result["terms"].items():
        _print_term(result, term, about["coefficient"])
    click.echo("")
    for note in result["notes"]:
        click.echo(f"note  {note}")
    for warning in result["warnings"]:
        click.echo(f"warning  {warning}")


def _print_term(result: dict[str, Any], term: str, coefficient: float) -> None:
    """Print the norms of one term, a line for each bucket."""
    from ..report.readable import short, with_error

    rows = [("", "score", "groups", "norm", "norm squared, unbiased", "norm without noise")]
    for record in result["buckets"]:
        score, norms = record["score"], record["gradients"][term]
        least, largest = short(score["min"]), short(score["max"])
        # a value that cannot be told from noise is not stated as one
        noise = norms["clear"] is False and norms["square"] != 0
        rows.append(
            (
                record["bucket"].replace("_", " "),
                least if least == largest else f"{least} to {largest}",
                str(record["groups"]),
                with_error(norms["norm"], norms["norm_se"]),
                with_error(norms["square"], norms["square_se"]),
                "not told from noise" if noise else short(norms["without_noise"]),
            )
        )
    coefficient_note = "" if term == "task" else f", coefficient {short(coefficient)} included"
    click.echo(f"\n{term} gradient{coefficient_note}")
    print_columns(rows, "  ")
