"""The command ``uncollapse report``, which takes several sweeps and runs, and its options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ....core.console.options import FilePath, json_option, plugin_option, print_json
from .print_report import print_report

if TYPE_CHECKING:
    from ...report.following import Target

SUCCESS = "validation/success"


def correlate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``--correlate`` and ``--lag``; :func:`target_of` reads them."""
    correlate = click.option(
        "--correlate",
        metavar="[METRIC]",
        is_flag=False,
        flag_value=SUCCESS,
        help=f"Also the rank correlation of every logged metric with this one, at once and later [default: {SUCCESS}].",
    )
    lag = click.option(
        "--lag",
        type=click.IntRange(min=1),
        metavar="STEPS",
        help="With --correlate: later measurements are at least so many steps later (default: 1, the next one).",
    )
    return correlate(lag(command))


def target_of(correlate: str | None, lag: int | None) -> Target | None:
    """Return what metrics are held against. Raises UsageError for a lag alone, or a directory instead of a metric."""
    from ...report.following import Target

    if lag is not None and correlate is None:
        raise click.UsageError("--lag says how much later --correlate looks: give --correlate METRIC too")
    if correlate is not None and correlate != SUCCESS and Path(correlate).is_dir():
        raise click.UsageError(
            f"--correlate takes a metric, and {correlate} is a directory: write it before --correlate"
        )
    return None if correlate is None else Target(correlate, lag or 1)


@click.command("report")
@click.argument("directories", metavar="DIR...", nargs=-1, required=True, type=FilePath())
@correlate_options
@click.option(
    "--out", type=FilePath(), metavar="DIR", help="Where report/ is written; of one sweep its own directory by default."
)
@json_option
@plugin_option
def command(
    directories: tuple[Path, ...], correlate: str | None, lag: int | None, out: Path | None, as_json: bool
) -> None:
    """Compare the runs in DIR..., sweeps or single runs, ended or not.

    One sweep has the report of ``sweep report``. Of several, or of single runs, the runs are shown together, and with
    --correlate what goes with success over all of them. Tables are printed here; with --out a page, plots and CSV files
    are written.
    """
    from ...report.pool import read_pool
    from ...report.sweep_report import read_report, report_of

    target = target_of(correlate, lag)
    if len(directories) == 1 and out is None and (directories[0] / "sweep.yaml").exists():
        report, writes = read_report(directories[0], target), True
    else:
        report, writes = report_of(read_pool(directories, out or Path(), target), target), out is not None
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report, writes)
