"""``uncollapse plugins``: what was loaded, blocked or found broken, and why."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from ..core.console.lazy_group import LazyGroup
from ..core.console.options import json_option, plugin_option, print_columns, print_json
from ..core.plugins import Plugin
from ..core.registry import Registry, registry
from ..core.terminal import escaped
from ..testing.installed import Findings, check_installed

NEW = "new", ("uncollapse.testing.new:command", "Write a package with one component, to start from.")


@click.group("plugins", cls=LazyGroup, invoke_without_command=True, subcommand_metavar="[new ...]", lazy=dict([NEW]))
@click.option(
    "--check", is_flag=True, help="Import all components, try what they must do, compose experiments and sweeps."
)
@json_option
@plugin_option
@click.pass_context
def command(context: click.Context, check: bool, as_json: bool) -> None:
    """Loaded, blocked and broken plugins, and what each registers; with --check, exit code 1 if one is broken."""
    if context.invoked_subcommand:
        return
    names = registry()
    findings = check_installed(names) if check else Findings()
    if as_json:
        print_json([_as_dict(names, plugin) for plugin in names.plugins])
    else:
        _print(names)
    for fix, entries in findings.for_want_of_an_extra.items():
        click.echo(f"not imported, for want of an extra ({fix}): {', '.join(entries)}", err=True)
    for name, why in findings.not_tried.items():
        click.echo(f"not tried: {name} ({why})", err=True)
    if check and any(plugin.status == "broken" for plugin in names.plugins):
        context.exit(1)


def _print(names: Registry) -> None:
    if not names.plugins:
        click.echo("no plugin is installed: is uncollapse installed, or only on the path?", err=True)
        return
    rows = [
        (plugin.status, plugin.name, _origin(plugin), f"{1000 * plugin.seconds:.0f} ms", plugin.module)
        for plugin in names.plugins
    ]
    print_columns(rows)
    for plugin in names.plugins:
        registered = _registered(names, plugin)
        if registered or plugin.errors or plugin.blocked:
            click.echo(f"\n{plugin.name} ({_origin(plugin)})")
        for kind, names_of_kind in registered.items():
            click.echo(f"  {kind}: {', '.join(names_of_kind)}")
        if plugin.blocked:
            click.echo(f"  blocked by {plugin.blocked}")
        for error in plugin.errors:
            click.echo(textwrap.indent(escaped(str(error)), "  "))


def _origin(plugin: Plugin) -> str:
    return f"{plugin.distribution} {plugin.version}".strip() or "a file"


def _registered(names: Registry, plugin: Plugin) -> dict[str, list[str]]:
    entries = {kind: [entry for entry in names.entries(kind) if entry.plugin is plugin] for kind in names.kinds()}
    return {kind: [entry.name for entry in of_kind] for kind, of_kind in entries.items() if of_kind}


def _as_dict(names: Registry, plugin: Plugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "status": plugin.status,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": plugin.module,
        "source": str(plugin.source or ""),
        "source_sha256": plugin.source_sha256,
        "seconds": plugin.seconds,
        "blocked_by": plugin.blocked,
        "errors": [{"type": type(error).__name__, "message": str(error)} for error in plugin.errors],
        "registers": _registered(names, plugin),
    }
