"""The laws of commands."""

from __future__ import annotations

import click
from click.testing import CliRunner

from ...core.compose.named import Named
from ...core.errors import RequestError, RunError
from ...core.registry import registry
from ..problems import laws, require


def _explains_itself(named: Named) -> None:
    """A command is a click command whose --help ends well and says something."""
    try:
        command: click.Command = registry().resolve("command", named.name)
    except RequestError as error:
        raise RunError(error.what, error.where, error.fix) from error
    done = CliRunner().invoke(command, ["--help"])
    require(named, "--help", done.exit_code == 0, f"ended with {done.exit_code}: {done.exception or done.output}")
    require(named, "--help", bool(command.help), "says nothing: give the function a docstring")


LAWS = {"command": laws(_explains_itself)}
