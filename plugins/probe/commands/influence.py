"""The command ``uncollapse probe influence`` prints and writes the share of every sequence."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

import click

from ....core.console.options import FilePath, json_option, plugin_option, print_columns, print_json, trust_option
from .options import checkpoint_options, over, ranks_option, set_option, start_ranks

SHOWN = 10
"""Number of sequences and prompts in the tables; the files hold all of them."""
CHECKPOINT, CONFIG = checkpoint_options("By default what the run that wrote the checkpoint says.")


@click.command("influence")
@CHECKPOINT
@CONFIG
@click.option("--be", type=click.IntRange(min=1), help="Prompts of E, on which the entropy is measured.")
@click.option("--bu", type=click.IntRange(min=1), help="Prompts of U, which make the update.")
@click.option(
    "--check",
    "checked",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    metavar="K",
    help="Hold the K largest shares, and K others, against the truth.",
)
@click.option(
    "--blocks",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="Of E, for standard errors: each takes a pass over U; 0 leaves them out.",
)
@click.option(
    "--results",
    type=FilePath(),
    default=Path("results"),
    show_default=True,
    help="Where the files go, under influence/.",
)
@click.option("--label", help="Begins the name of the directory.")
@set_option
@ranks_option
@trust_option
@json_option
@plugin_option
def command(
    checkpoint: Path | None,
    config: str | None,
    be: int | None,
    bu: int | None,
    checked: int,
    blocks: int,
    results: Path,
    label: str | None,
    overrides: tuple[str, ...],
    ranks: int,
    as_json: bool,
) -> None:
    """Say which sequences of the update drive the entropy change.

    Every sequence gets its share of the predicted change of the next update: all of them from one pass back over E and
    one forward-mode pass over U, and a few are checked by importance sampling.
    """
    from ..experiments.files import check_label
    from ..read_config import read_config

    check_label(label)
    changes = over(checkpoint, overrides, {"batch_config.B_E": be, "batch_config.B_U": bu})
    # the configuration is read before ranks start, so that its problems are told once
    read = read_config(config or {}, changes)
    start_ranks(ranks)
    from ...training.processes.ranks import start_ranks as join_ranks
    from ..influence.run import DATA, PICTURE, TABLE, influence, write
    from ..session import Session

    place = join_ranks()
    for line in read.ignored if place.first else ():
        click.echo(f"ignored: {line}", err=True)
    session = Session(read.config, ranks=place)
    result = influence(session, read.config.sizes[0], blocks=blocks, checked=checked)
    if not place.first:
        return
    directory = write(result, session, results, label)
    if as_json:
        print_json(result)
        return
    _print_totals(result)
    _print_sequences(result)
    _print_groups(result)
    if result["check"]:
        _print_checks(result)
    click.echo(f"\n{directory}: {DATA}, {TABLE}, {PICTURE}")


def _print_totals(result: dict[str, Any]) -> None:
    """Print what was probed, the predicted change, and its parts."""
    from ..next_step import step_lines
    from ..report.readable import short, with_error

    prediction, carried = result["prediction"], result["carried"]
    click.echo(
        f"{result['B_U']} x {result['G']} sequences of U, {result['B_E']} prompts of E, "
        f"learning rate {short(result['learning_rate'])}, {result['direction']}; shares in {result['measured_in']}"
    )
    for line in step_lines(result["step"]):
        click.echo(f"step  {line}")
    click.echo(f"predicted change  {with_error(prediction['deltaH1'], prediction['se'])}")
    sequences = result["total"] - carried["share"]
    click.echo(f"of the sequences  {short(sequences)}")
    click.echo(f"of momentum and weight decay  {with_error(carried['share'], carried['se'])}")
    if result["total_is_noise"]:
        why = "is within two standard errors of 0" if isfinite(result["total_se"]) else "has no standard error"
        click.echo(f"the change {why}: there are no percentages of it; take a larger B_E")


def _print_sequences(result: dict[str, Any]) -> None:
    """Print the sequences with the largest shares."""
    from ..report.readable import short, with_error

    records = sorted(result["sequences"], key=lambda record: -abs(record["share"]))
    click.echo(f"\nlargest shares, {min(SHOWN, len(records))} of {len(records)} sequences")
    rows = [
        (
            str(record["prompt"]),
            str(record["member"]),
            short(record["reward"]),
            short(record["advantage"]),
            str(record["tokens"]),
            short(record["surprisal_mean"]),
            with_error(record["share"], record["se"]),
            _percent(record["share_of_total"]),
        )
        for record in records[:SHOWN]
    ]
    columns = ("prompt", "member", "reward", "advantage", "tokens", "surprisal", "share", "of the change")
    print_columns([columns, *rows], "  ")


def _print_groups(result: dict[str, Any]) -> None:
    """Print the sums over prompts and over like sequences, and the rank correlations."""
    from ..report.readable import short, with_error

    for name, groups in result["groups"].items():
        click.echo(f"\nby {name.replace('_', ' ')}")
        rows = [
            (
                f"{group['prompt']} (task {group['task']})" if name == "prompt" else group["label"],
                str(group["sequences"]),
                with_error(group["share"], group["se"]),
                _percent(group["share_of_total"]),
            )
            for group in groups[:SHOWN]
        ]
        print_columns([("", "sequences", "share", "of the change"), *rows], "  ")
    click.echo("\nSpearman's rank correlation")
    ranked = [
        (name.replace("_", " "), short(both["share"], ".2f"), short(both["size"], ".2f"))
        for name, both in result["correlations"].items()
    ]
    print_columns([("", "with the share", "with its size"), *ranked], "  ")


def _print_checks(result: dict[str, Any]) -> None:
    """Print the whole update and some sequences with what importance sampling has measured of them."""
    from ..report.readable import short

    click.echo(
        "\nchecked by importance sampling on the same sample of E (what differs is curvature, and 1 part in B_E)"
    )
    labels = {
        record["sequence"]: f"prompt {record['prompt']}, member {record['member']}" for record in result["sequences"]
    }
    checked = [
        (
            "whole update" if item["sequence"] is None else labels[item["sequence"]],
            short(item["predicted"]),
            short(item["measured"]),
            short(item["ratio"], ".3f"),
            short(item["curvature"]),
            _percent(item["ess_fraction"]),
        )
        for item in result["check"]
    ]
    print_columns([("", "predicted", "measured", "ratio", "second order", "ESS"), *checked], "  ")


def _percent(share: float | None) -> str:
    from ..report.readable import short

    return "–" if share is None else f"{short(100 * share, '.1f')} %"
