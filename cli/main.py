"""``uncollapse``: the command group, its global options, and the edge where errors become messages and exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..core.console.lazy_group import LazyGroup
from ..core.console.options import plugin_option
from ..core.console.streams import never_fail, open_closed
from ..core.errors import RequestError, UncollapseError
from ..core.paths import shown_path
from ..core.terminal import escaped, printable_streams

COMMANDS = {
    "list": ("uncollapse.cli.list:command", "Names, what they do, and which distribution provides them."),
    "show": (
        "uncollapse.cli.show:command",
        "All about one name, or the contract of a kind.",
    ),
    "plugins": ("uncollapse.cli.plugins:command", "Loaded, blocked and broken plugins, and what each registers."),
    "check": ("uncollapse.cli.check:command", "The resolved experiment, or every problem with it at once."),
    "doctor": ("uncollapse.cli.doctor:command", "What this machine can run."),
}
"""The commands that there are without any plugin; whatever else there is, plugins register."""
WRONG_PATH = {
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.EACCES, errno.EPERM),
    *(errno.ENXIO, errno.ENODEV),
}
"""Failures that say that a path was wrongly given; others, such as a disk that went away, are of the work."""
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF}
"""Failures of a write; where no file is named, what was printed could not be written."""


class Main(LazyGroup):
    """The commands of this package and of plugins, and the edge where errors become messages and exit codes."""

    def summaries(self) -> dict[str, str]:
        from ..core.registry import registry

        return super().summaries() | {entry.name: entry.summary for entry in registry().entries("command")}

    def has(self, name: str) -> bool:
        from ..core.registry import registry

        return super().has(name) or registry().has("command", name)

    def load(self, name: str) -> click.Command:
        from ..core.registry import registry

        return super().load(name) if super().has(name) else registry().resolve("command", name)

    def advice(self, name: str) -> str:
        from ..core.registry import registry

        return "; ".join(filter(None, (super().advice(name), registry().unusable())))

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        open_closed()
        printable_streams()
        try:
            with _escaped_usage(), _refused_output():
                return super().make_context(*args, **kwargs)
        except UncollapseError as error:  # --help lists the commands of plugins
            sys.exit(_report(error))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _escaped_usage(), _refused_output():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except (UncollapseError, ImportError) as error:
            ctx.exit(_report(error))
        except OSError as error:  # a directory where a file should be, a disk that went away
            if error.filename is None:
                raise
            kind = RequestError if error.errno in WRONG_PATH else UncollapseError
            ctx.exit(_report(kind(f"{error.strerror}: {shown_path(error.filename)}")))


@contextmanager
def _escaped_usage() -> Iterator[None]:
    """What click says of a wrong value shows the value."""
    try:
        yield
    except click.ClickException as error:
        vars(error)["message"] = escaped(error.message)
        raise


@contextmanager
def _refused_output() -> Iterator[None]:
    """A full disk behind standard output ends a command that has nothing else to do."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in UNWRITABLE:
            raise
        never_fail()  # what is left of it would be tried once more as the process ends
        raise SystemExit(_report(UncollapseError(f"the output cannot be written: {error.strerror}"))) from error


def _report(error: UncollapseError | ImportError) -> int:
    """Print what went wrong, as a traceback where ``UNCOLLAPSE_TRACE`` asks for one; the exit code."""
    from ..core.calling import tracing
    from ..core.targets import missing_extra

    if isinstance(error, ImportError):
        missing = missing_extra(error, "this command needs more than the light install")
        if missing is None:
            raise error
        error = missing
    if tracing():
        import traceback

        traceback.print_exception(error)
    else:
        click.echo(escaped(f"error: {error}"), err=True)
    return error.exit_code


@click.group(cls=Main, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@plugin_option
@click.version_option(package_name="uncollapse")
def main() -> None:
    """Train LLM agents with reinforcement learning, sweep interventions, measure collapse."""
    # Read when torch is loaded: threads that spin while they wait stall every other process on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


if __name__ == "__main__":
    main()
