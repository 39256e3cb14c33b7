"""``uncollapse sweep``: run, resume, watch and report sweeps."""

from __future__ import annotations

from pathlib import Path

import click

from ....core.console.options import FilePath, json_option, plugin_option, print_columns, print_json
from .group import SweepGroup
from .print_report import print_report
from .report import correlate_options, target_of
from .run import run_command
from .show import show_command

_plugin = click.Option(["--plugin"], multiple=True, metavar="FILE.py", expose_value=False, help="Load a plugin first.")


@click.group("sweep")
def command() -> None:
    """Run, resume, watch and report sweeps: every combination of some settings of one experiment."""


@command.command("list")
@json_option
@plugin_option
def list_sweeps(as_json: bool) -> None:
    """The named sweeps."""
    from ....core.registry import registry

    entries = registry().entries("sweep")
    if as_json:
        print_json([{"name": entry.name, "summary": entry.summary} for entry in entries])
    elif entries:
        print_columns([(entry.name, entry.summary) for entry in entries])


command.add_command(
    SweepGroup(
        "show",
        decorate=show_command,
        short_help="What is varied, and every point with its settings.",
        help="What is varied, and every point that would run with its resolved settings.",
        params=[_plugin],
    )
)
command.add_command(
    SweepGroup(
        "run",
        decorate=run_command,
        short_help="Run what has not ended, resume what has begun, report.",
        help="""Run every point that has not ended, resume what has begun, and write the report.

        Exit code: 0 if every run used its budget or was stopped by a detector, 1 if any failed, 2 if the request was
        wrong, 130 if interrupted.""",
        params=[_plugin],
    )
)


@command.command("status")
@click.argument("directory", metavar="DIR", type=FilePath())
@click.option("--watch", "watching", is_flag=True, help="Keep it current until no run is under way, or until Ctrl-C.")
@json_option
def status(directory: Path, watching: bool, as_json: bool) -> None:
    """How every point in DIR stands, also while the sweep runs."""
    from rich.console import Console

    from ...report.sweep_status import read_sweep_status, watch

    if as_json and watching:
        raise click.UsageError("--json is how the runs stand at one moment: leave --watch out")
    if as_json:
        print_json(read_sweep_status(directory).to_dict())
    elif watching:
        watch(directory, Console())
    else:
        read_sweep_status(directory).print(Console())


@command.command("report")
@click.argument("directory", metavar="DIR", type=FilePath())
@correlate_options
@json_option
def report(directory: Path, correlate: str | None, lag: int | None, as_json: bool) -> None:
    """Compare the runs in DIR, finished or not: tables here; a page, plots and CSV files in DIR/report."""
    from ...report.sweep_report import read_report

    found = read_report(directory, target_of(correlate, lag))
    if as_json:
        print_json(found.to_dict())
    else:
        print_report(found)
