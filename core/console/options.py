"""Options that several commands share."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ..files import to_json
from ..paths import shown_path, unusable


class FilePath(click.Path):
    """A path that can be one: neither empty nor odd, too long, in a loop of links, or closed to us."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = os.fsdecode(value)
        if reason := unusable(text):
            self.fail(f"the path {shown_path(text)!r} {reason}", param, ctx)
        try:
            Path(text).stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                self.fail(f"{shown_path(text)!r}: {error.strerror}", param, ctx)
        return super().convert(value, param, ctx)


class FiniteRange(click.FloatRange):
    """A range of finite numbers, of which NaN is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Runs(click.ParamType):  # type: ignore[type-arg]
    """A number of runs, or ``auto`` for as many as fit."""

    name = "runs"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto":
            return "auto"
        return int(click.IntRange(1, 64).convert(value, param, ctx))


def per_gpu_option(words: str) -> Callable[..., Any]:
    """``--per-gpu N|auto``."""
    return click.option("--per-gpu", type=Runs(), metavar="N|auto", help=words)


def load_plugin_files(paths: tuple[str, ...]) -> None:
    """Load plugin files into the registry of this process. Raises RequestError if one cannot be loaded."""
    if paths:
        from ..registry import registry

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


SLOW_S = 1.0
"""Seconds from which on the loading of a plugin is worth a line."""


def mention_plugins() -> None:
    """Say on stderr which plugins are left out, and which are slow to load; once for all ranks of a run."""
    from ..registry import registry

    if os.environ.get("RANK", "0") != "0":
        return
    plugins = registry().plugins
    if broken := [plugin.name for plugin in plugins if plugin.status == "broken"]:
        click.echo(f"broken: {', '.join(broken)} (uncollapse plugins says why)", err=True)
    for plugin in plugins:
        if plugin.seconds >= SLOW_S:
            click.echo(f"slow: {plugin} took {plugin.seconds:.1f} s to load", err=True)


def set_option_of(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--set KEY=VALUE``, repeatable, passed on as ``overrides``; ``what`` has the keys."""
    return click.option(
        *("--set", "overrides"),
        multiple=True,
        metavar="KEY=VALUE",
        callback=lambda _context, _option, texts: tuple(map(_as_utf8, texts)),
        help=f"Change one key of the {what}; the value is YAML.",
    )


set_option = set_option_of("experiment")


def _as_utf8(text: str) -> str:
    """Text that a locale without UTF-8 has handed over byte by byte."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def trust_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--trust``: plugin files that a run's configuration names may be executed. The command gets no argument."""

    def trust(_context: click.Context, _option: click.Parameter, given: bool) -> None:
        from ..registry import registry

        registry().trusts_runs = registry().trusts_runs or given

    help_text = "Execute the plugin files that the run's configuration names."
    return click.option("--trust", is_flag=True, expose_value=False, is_eager=True, callback=trust, help=help_text)(
        command
    )


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--json``, passed on as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_json(data: object) -> None:
    """Plain data as JSON, NaN and infinities as null; what JSON does not know is printed as text."""
    ascii_only = "utf" not in (sys.stdout.encoding or "").lower()
    plain = json.loads(json.dumps(data, default=str))
    click.echo(to_json(plain, indent=2, ascii_only=ascii_only))


def columns(rows: Sequence[tuple[str, ...]], indent: str = "") -> list[str]:
    """Rows of text as aligned lines; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append((indent + "  ".join([*cells, row[-1]])).rstrip())
    return lines


def print_columns(rows: Sequence[tuple[str, ...]], indent: str = "") -> None:
    """Print :func:`columns`."""
    for line in columns(rows, indent):
        click.echo(line)
