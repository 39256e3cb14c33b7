"""The command ``uncollapse plugins new``."""

from __future__ import annotations

from pathlib import Path

import click

from ..core.console.options import FilePath
from ..core.kinds import KINDS
from ..core.paths import shown_path
from .scaffold import write_package


@click.command("new")
@click.argument("name")
@click.option("--kind", required=True, metavar="KIND", help=f"What it registers: {', '.join(KINDS)}.")
@click.option("--to", "folder", type=FilePath(), default=Path(), help="The folder to write it into; here by default.")
def command(name: str, kind: str, folder: Path) -> None:
    """Write the package NAME: one component that works, its test, and the entry point."""
    for path in write_package(name, kind, folder):
        click.echo(shown_path(path))
    click.echo(f"next: pip install -e {shown_path(folder / name)}; uncollapse show {kind} says what is expected")
