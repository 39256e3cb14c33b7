"""``uncollapse show``: everything about one name, or about a kind. Imports that component only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import click

from ..core.console.options import json_option, plugin_option, print_columns, print_json
from ..core.registry import registry
from ..testing.contract import contract_of
from ..testing.contract_text import lines

if TYPE_CHECKING:
    from ..core.describe import Description, Parameter


@click.command("show")
@click.argument("kind")
@click.argument("name", required=False)
@json_option
@plugin_option
def command(kind: str, name: str | None, as_json: bool) -> None:
    """Parameters, documentation and source of NAME, which is one of KIND; without NAME the contract of KIND."""
    if name is None:
        contract = contract_of(kind)
        print_json(attrs.asdict(contract)) if as_json else click.echo("\n".join(lines(contract)))
        return
    description = registry().describe(kind, name)
    if as_json:
        print_json(attrs.asdict(description))
    else:
        _print(description)


def _print(description: Description) -> None:
    click.echo(f"{description.kind} {', '.join((description.name, *description.aliases))}: {description.summary}")
    if description.doc:
        click.echo(f"\n{description.doc}")
    if description.parameters:
        click.echo("\nparameters")
        for parameter in description.parameters:
            click.echo(f"  {_signature(parameter)}")
            for line in parameter.doc.splitlines():
                click.echo(f"      {line}")
    click.echo()
    facts = {
        **description.facts,
        "needs": ", ".join(description.needs),
        "target": description.target,
        "plugin": f"{description.plugin} ({f'{description.distribution} {description.version}'.strip() or 'a file'})",
        "source": description.source,
        "sha256": description.source_sha256,
    }
    print_columns([(name, str(value)) for name, value in facts.items() if value != ""])


def _signature(parameter: Parameter) -> str:
    text = f"{parameter.name}: {parameter.type}" if parameter.type else parameter.name
    return f"{text} (required)" if parameter.required else f"{text} = {parameter.default!r}"
