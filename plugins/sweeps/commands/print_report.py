"""``sweep run`` and ``sweep report`` print the report of a sweep, and write it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ....core.errors import MissingExtraError

if TYPE_CHECKING:
    from ...report.following import Target


def print_report(directory: Path, target: Target | None = None) -> None:
    """Print the tables, then write the files; the tables need no plotting library."""
    import sys

    from rich.console import Console

    from ...report.sweep_report import read_report

    report = read_report(directory, target)
    report.print(Console() if sys.stdout.isatty() else Console(width=220))
    try:
        click.echo(f"\nreport: {report.write()}")
    except MissingExtraError as error:
        click.echo(f"no page was written: {error}", err=True)
