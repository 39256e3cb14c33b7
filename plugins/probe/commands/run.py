"""The command ``run`` of ``uncollapse probe`` makes one probe, and ``report`` the page of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ....core.console.options import FilePath, json_option, plugin_option, print_json, trust_option
from .options import checkpoint_options, over, ranks_option, set_option, start_ranks
from .output import Verbosity, console, print_result


def _checkpoint_and_config(command: Any) -> Any:
    for option in reversed(checkpoint_options("See configs/detailed_logging_example.yaml.", required=True)):
        command = option(command)
    return command


@click.command("run")
@_checkpoint_and_config
@click.option("--output", type=FilePath(dir_okay=False), help="A JSON file for the results.")
@set_option
@ranks_option
@trust_option
@json_option
@plugin_option
def command(
    checkpoint: Path | None,
    config: str,
    output: Path | None,
    overrides: tuple[str, ...],
    ranks: int,
    as_json: bool,
) -> None:
    """One probe of a checkpoint: predict the entropy change of its next update, and measure it, as FILE says."""
    from ..own_run import read_for_checkpoint

    flags = {} if output is None else {"output.results_path": str(output), "output.save_results": True}
    changes = over(checkpoint, overrides, flags)
    read_for_checkpoint(config, changes)  # what is wrong is said once, before there are several processes
    start_ranks(ranks)
    from ...training.processes.ranks import start_ranks as join_ranks
    from .. import OfflineEntropyProbe

    place = join_ranks()
    with console(Verbosity.NORMAL):
        result = OfflineEntropyProbe.from_config_file(config, changes, place).run_mixed_probe()
    if place.first:
        print_json(result) if as_json else print_result(result)


@click.command("report")
@click.argument("directory", metavar="DIR", type=FilePath())
def report(directory: Path) -> None:
    """Tables and plots of an experiment directory, finished or not, as a page in it."""
    from ..report import report as page

    click.echo(str(page.write(directory)))
