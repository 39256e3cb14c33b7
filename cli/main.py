"""``uncollapse``: the command group, its global options, and the edge where errors become messages and exit codes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..core.console.lazy_group import LazyGroup
from ..core.console.options import load_plugin_files
from ..core.console.streams import never_fail, open_closed
from ..core.errors import RequestError, UncollapseError
from ..core.paths import shown_path
from ..core.terminal import escaped, printable_streams

COMMANDS = {
    "list": (".list:command", "Names, what they do, and which distribution provides them."),
    "show": (".show:command", "Parameters, documentation and source of one name."),
    "plugins": (".plugins:command", "Loaded, blocked and broken plugins, and what each registers."),
    "check": (".check:command", "The resolved experiment, or every problem with it at once."),
    "train": (".train:command", "Train an experiment."),
    "eval": (".eval:command", "Success of a checkpoint on the validation groups."),
    "export": (".export:command", "A checkpoint as a plain Hugging Face model or adapter."),
    "sweep": (".sweep:command", "Run, resume and report sweeps."),
    "detect": (".detect:command", "Replay detectors over finished runs."),
    "probe": (".probe:command", "Predict and measure the next entropy change."),
    "doctor": (".doctor:command", "What this machine can run."),
}
"""Command -> where it is, and its line in ``--help``, which imports no command."""
WRONG_PATH = {
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.EACCES, errno.EPERM),
    *(errno.ENXIO, errno.ENODEV),
}
"""Failures that say that a path was wrongly given; others, such as a disk that went away, are of the work."""
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF}
"""Failures of a write, where no file is named that of what was printed."""


class Main(LazyGroup):
    """The edge where errors become messages and exit codes."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        open_closed()
        printable_streams()
        with _escaped_usage(), _refused_output():
            return super().make_context(*args, **kwargs)

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
    from ..core.plugins import tracing
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
@click.option("--plugin", multiple=True, metavar="FILE.py", help="Load a plugin from a file (repeatable).")
@click.version_option(package_name="uncollapse")
def main(plugin: tuple[str, ...]) -> None:
    """Train LLM agents with reinforcement learning, sweep interventions, measure collapse."""
    # Read when torch is loaded: threads that spin while they wait stall every other process on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    load_plugin_files(plugin)


if __name__ == "__main__":
    main()
