"""Options that the commands of ``probe`` share are made here, and put over a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from ....core.console.options import FilePath, set_option_of

Option = Callable[..., Any]

set_option = set_option_of("probe's configuration")
ranks_option = click.option(
    "--ranks", type=click.IntRange(1), default=1, help="Processes, one per GPU, under DeepSpeed's launcher."
)


def checkpoint_options(config_help: str, required: bool = False) -> tuple[Option, Option]:
    """Return the options ``--checkpoint`` and ``--config``."""
    return (
        click.option(
            "--checkpoint",
            type=FilePath(),
            help="A checkpoint directory, its model/, or a run directory (its last one).",
        ),
        click.option("--config", required=required, metavar="FILE", help=f"YAML file or configs/NAME. {config_help}"),
    )


def over(checkpoint: Path | None, settings: tuple[str, ...], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of dotted keys to put over a configuration: of ``--set``, and over them of flags that were given.

    A checkpoint brings its own optimizer state, unless a setting names one.

    Raises:
        ConfigError: a setting is not KEY=VALUE.
    """
    from ....core.compose.overrides import read_override
    from ....core.compose.problems import Invalid
    from ....core.registry import registry
    from ..read_config import ConfigError

    by_setting: dict[str, Any] = {}
    by_flag = {key: value for key, value in flags.items() if value is not None}
    if checkpoint is not None:
        by_setting["checkpoint.optimizer_path"] = ""
        by_flag["checkpoint.checkpoint_path"] = str(checkpoint)
    for setting in settings:
        try:
            key, value = read_override(setting, registry())
        except Invalid as error:
            raise ConfigError(error.problems) from error
        by_setting[key] = value
    # a flag is the more deliberate of the two, and what it overrides is said
    for key, value in by_flag.items():
        if by_setting.get(key, value) != value:
            click.echo(f"notice: --set {key}={by_setting[key]} gives way to {value}, by a flag of its own", err=True)
    return by_setting | by_flag


def start_ranks(ranks: int) -> None:
    """Run this command in as many processes and exit as they did, if several are wanted and this is not one of them."""
    if ranks > 1:
        from ...training.processes.launch import relaunch

        relaunch(ranks)
