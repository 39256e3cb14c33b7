"""A group whose commands are imported when they are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ..errors import nearest
from ..targets import load_target


class LazyGroup(click.Group):
    """Lists its commands without importing them.

    Args:
        lazy: command -> (``"module:attribute"``, its line in ``--help``).
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def summaries(self) -> dict[str, str]:
        """Command -> its line in ``--help``, in the order in which they are listed."""
        return {name: summary for name, (_, summary) in self.lazy.items()}

    def has(self, name: str) -> bool:
        """Whether there is such a command."""
        return name in self.lazy

    def load(self, name: str) -> click.Command:
        """The command of that name, imported."""
        command: click.Command = load_target(self.lazy[name][0])
        return command

    def advice(self, name: str) -> str:
        """What to say to whoever asked for a command that is not there."""
        return nearest(name, self.summaries())

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.summaries())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.load(cmd_name) if self.has(cmd_name) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries().items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0] if ctx.token_normalize_func is None else ctx.token_normalize_func(args[0])
        if not self.has(name) and not name.startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}; {self.advice(name)}")
        return super().resolve_command(ctx, args)
