"""``uncollapse check``: the resolved experiment, or every problem with it at once."""

from __future__ import annotations

import click

from ..core.console.options import mention_plugins, plugin_option, set_option


@click.command("check")
@click.argument("source", metavar="FILE|NAME")
@set_option
@plugin_option
def command(source: str, overrides: tuple[str, ...]) -> None:
    """Print the experiment in FILE, or registered as NAME, with every default filled in.

    Ends with exit code 2 and all problems at once if it cannot run.
    """
    from ..core.compose.config import compose, dump_yaml

    mention_plugins()
    click.echo(dump_yaml(compose(source, overrides)), nl=False)
