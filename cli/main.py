"""``uncollapse``: the command group, its global options, and the edge where errors become messages and exit codes."""

from __future__ import annotations

import os
from typing import Any

import click

from ..core.errors import UncollapseError
from .lazy_group import LazyGroup
from .options import load_plugin_files
from .plain_output import survive_plain_terminals

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


class Main(LazyGroup):
    """The edge where errors become messages and exit codes."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        survive_plain_terminals()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except (UncollapseError, ImportError) as error:
            ctx.exit(_report(error))
        except OSError as error:  # a directory where a file should be, a disk that went away
            if error.filename is None:
                raise
            ctx.exit(_report(UncollapseError(f"{error.strerror}: {error.filename}")))


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
        click.echo(f"error: {error}", err=True)
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
