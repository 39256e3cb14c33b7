"""``uncollapse sweep show`` prints the points of a sweep with their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ....core.console.options import json_option, print_columns, print_json
from .group import print_notices, sweep_of, what_options


def show_command(command: click.Command) -> click.Command:
    """Add the options of ``sweep show NAME``."""
    command.callback = _show_points
    what_options(command)
    json_option(command)
    click.option("--as", "style", metavar="DIALECT", help="In the words of another program: uncollapse list dialect.")(
        command
    )
    return command


@click.pass_context
def _show_points(context: click.Context, root: Path | None, as_json: bool, style: str | None, **options: Any) -> None:
    from ....core.compose.config import to_dict
    from ....core.compose.flat import flat
    from ....core.registry import registry

    dialect = registry().create("dialect", style) if style else None
    sweep = sweep_of(context, options)
    points = sweep.prepared(root)
    if dialect:
        settings = {point.place.name: dialect.keys(point, sweep) for point in points}
    else:
        settings = {point.label: flat(to_dict(point.experiment)) for point in points}
    if as_json:
        print_json(settings)
        return
    if dialect:
        print_notices(sweep)
        for point in points:
            click.echo(f"# {point.title}")
            click.echo(dialect.words(settings[point.place.name]))
        return
    click.echo(f"sweep {sweep.title}: {len(points)} points of {sweep.experiment}")
    print_notices(sweep)
    if keys_set := dict.fromkeys([*sweep.overrides, *(key for case in sweep.cases for key in case.overrides)]):
        click.echo(f"whatever the experiment says, the sweep sets {', '.join(keys_set)}")
    if sweep.claims:
        click.echo("claims that its report checks")
        print_columns([(claim.text, claim.source) for claim in sweep.claims], "  ")
    shared = dict.fromkeys(set.intersection(*(set(s.items()) for s in settings.values())))
    if len(points) > 1:
        click.echo("all points")
        first = next(iter(settings.values()))
        print_columns([(key, first[key]) for key in first if (key, first[key]) in shared] or [("–", "")], "  ")
    for point, (title, keys) in zip(points, settings.items(), strict=True):
        click.echo(f"{title}  [{point.hash}]  {point.place.run}")
        rows = [(key, value) for key, value in keys.items() if len(points) == 1 or (key, value) not in shared]
        print_columns(rows or [("–", "")], "  ")
