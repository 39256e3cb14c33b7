"""``report``, ``sweep run`` and ``sweep report`` print a report, and write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ....core.errors import MissingExtraError

if TYPE_CHECKING:
    from ...report.sweep_report import Report


def print_report(report: Report, writes: bool = True) -> None:
    """Print the tables, then write the files; the tables need no plotting library."""
    import sys

    from rich.console import Console

    report.print(Console() if sys.stdout.isatty() else Console(width=220))
    if not writes:
        click.echo("\nno page was written: give --out DIR for one")
        return
    try:
        click.echo(f"\nreport: {report.write()}")
    except MissingExtraError as error:
        click.echo(f"no page was written: {error}", err=True)
