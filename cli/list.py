"""``uncollapse list``: what is registered. Imports no component."""

from __future__ import annotations

import click

from ..core.console.options import json_option, mention_plugins, plugin_option, print_columns, print_json
from ..core.entry import Entry
from ..core.registry import registry


@click.command("list")
@click.argument("kind", required=False)
@json_option
@plugin_option
def command(kind: str | None, as_json: bool) -> None:
    """Names, what they do, and which distribution provides them; of all kinds or of KIND."""
    names = registry()
    entries = {each: names.entries(each) for each in ([kind] if kind else names.kinds())}
    if as_json:
        print_json([_as_dict(entry) for of_kind in entries.values() for entry in of_kind])
    else:
        for each, of_kind in entries.items():
            if of_kind or kind:
                click.echo(each)
                print_columns([_row(entry) for entry in of_kind], indent="  ")
    mention_plugins()


def _row(entry: Entry) -> tuple[str, ...]:
    return ", ".join((entry.name, *entry.aliases)), _origin(entry), entry.summary


def _origin(entry: Entry) -> str:
    return f"{entry.distribution} {entry.version}" if entry.distribution else f"{entry.plugin.name}.py"


def _as_dict(entry: Entry) -> dict[str, object]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "aliases": entry.aliases,
        "summary": entry.summary,
        "target": entry.target_string,
        "plugin": entry.plugin.name,
        "distribution": entry.distribution,
        "version": entry.version,
    }
