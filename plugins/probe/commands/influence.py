"""``uncollapse probe influence``."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

import click

from ....core.console.options import FilePath, json_option, plugin_option, print_columns, print_json, trust_option
from .options import checkpoint_options, over, ranks_option, set_option, start_ranks

SHOWN = 10
"""Sequences and prompts in the tables; the files hold all of them."""
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
    """Which sequences of the update drive the entropy change?

    Every sequence gets its share of the predicted change of the next update: all of them from one pass back over E and
    one forward-mode pass over U, and a few are checked by importance sampling.
    """
    from ..experiments.files import check_label
    from ..read_config import read_config

    check_label(label)
    changes = over(checkpoint, overrides, {"batch_config.B_E": be, "batch_config.B_U": bu})
    read = read_config(config or {}, changes)
    start_ranks(ranks)
    from ...training.processes.ranks import start_ranks as joined
    from ..influence.run import DATA, PICTURE, TABLE, influence, write
    from ..session import Session

    place = joined()
    for line in read.ignored if place.first else ():
        click.echo(f"ignored: {line}", err=True)
    session = Session(read.config, ranks=place)
    found = influence(session, read.config.sizes[0], blocks=blocks, checked=checked)
    if not place.first:
        return
    directory = write(found, session, results, label)
    if as_json:
        print_json(found)
        return
    _print(found)
    click.echo(f"\n{directory}: {DATA}, {TABLE}, {PICTURE}")


def _print(found: dict[str, Any]) -> None:
    from ..next_step import step_lines
    from ..report.readable import short, with_error

    prediction, carried, unit = found["prediction"], found["carried"], found["measured_in"]
    click.echo(
        f"{found['B_U']} x {found['G']} sequences of U, {found['B_E']} prompts of E, "
        f"learning rate {short(found['learning_rate'])}, {found['direction']}; shares in {unit}"
    )
    for line in step_lines(found["step"]):
        click.echo(f"step  {line}")
    click.echo(f"predicted change  {with_error(prediction['deltaH1'], prediction['se'])}")
    sequences = found["total"] - carried["share"]
    click.echo(f"of the sequences  {short(sequences)}")
    click.echo(f"of momentum and weight decay  {with_error(carried['share'], carried['se'])}")
    if found["total_is_noise"]:
        why = "is within two standard errors of 0" if isfinite(found["total_se"]) else "has no standard error"
        click.echo(f"the change {why}: there are no percentages of it; take a larger B_E")
    records = sorted(found["sequences"], key=lambda record: -abs(record["share"]))
    click.echo(f"\nlargest shares, {min(SHOWN, len(records))} of {len(records)} sequences")
    print_columns(
        [
            ("prompt", "member", "reward", "advantage", "tokens", "surprisal", "share", "of the change"),
            *(
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
            ),
        ],
        "  ",
    )
    for name, groups in found["groups"].items():
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
        for name, both in found["correlations"].items()
    ]
    print_columns([("", "with the share", "with its size"), *ranked], "  ")
    if found["check"]:
        click.echo(
            "\nchecked by importance sampling on the same sample of E (what differs is curvature, and 1 part in B_E)"
        )
        of_sequence = {
            record["sequence"]: f"prompt {record['prompt']}, member {record['member']}" for record in records
        }
        checked = [
            (
                "whole update" if item["sequence"] is None else of_sequence[item["sequence"]],
                short(item["predicted"]),
                short(item["measured"]),
                short(item["ratio"], ".3f"),
                short(item["curvature"]),
                _percent(item["ess_fraction"]),
            )
            for item in found["check"]
        ]
        print_columns([("", "predicted", "measured", "ratio", "second order", "ESS"), *checked], "  ")


def _percent(share: float | None) -> str:
    from ..report.readable import short

    return "–" if share is None else f"{short(100 * share, '.1f')} %"
