"""Options that several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from .plain_output import PlainOutput


def load_plugin_files(paths: tuple[str, ...]) -> None:
    """Load plugin files into the registry of this process. Raises RequestError if one cannot be loaded."""
    if paths:
        from ..core.registry import registry

        for path in paths:
            registry().load_file(path)


def plugin_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--plugin FILE.py``, repeatable, on a subcommand as on ``uncollapse`` itself; the file is loaded at once.

    The command gets no argument: ``registry().files()`` says what was loaded.
    """
    return click.option(
        "--plugin",
        multiple=True,
        metavar="FILE.py",
        expose_value=False,
        is_eager=True,
        callback=lambda _context, _option, paths: load_plugin_files(paths),
        help="Load a plugin from a file (repeatable).",
    )(command)


def set_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--set KEY=VALUE``, repeatable, passed on as ``overrides``."""
    help_text = "Change one key of the experiment; the value is YAML."
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=help_text)(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--json``, passed on as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_json(data: Any) -> None:
    """Plain data as JSON; what JSON does not know is printed as text."""
    ascii_only = isinstance(sys.stdout, PlainOutput)
    click.echo(json.dumps(data, indent=2, ensure_ascii=ascii_only, default=str))


def print_columns(rows: Sequence[tuple[str, ...]], indent: str = "") -> None:
    """Rows of text, aligned; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        click.echo((indent + "  ".join([*cells, row[-1]])).rstrip())
