"""The commands ``single``, ``batch-scaling``, ``sanity-check`` and ``debug`` run the experiments of the probe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ....core.console.options import FilePath, json_option, plugin_option, trust_option
from .options import checkpoint_options, over, ranks_option, set_option, start_ranks
from .output import Verbosity, console, print_outcome, print_run

UNUSED = {
    "single": ("be_values", "runs", "save_gradients"),
    "batch-scaling": ("be", "save_gradients"),
    "sanity-check": ("be_values", "save_gradients"),
    "debug": ("be", "runs"),
}
"""Flags that an experiment accepts, as all do, and has no use for, by its name."""


def _sizes(context: click.Context, option: click.Parameter, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of whole numbers; write 16,32,64") from None


OPTIONS = (
    *checkpoint_options("Default: the template of the experiment."),
    click.option("--be-values", callback=_sizes, metavar="16,32,64", help="Sizes of E, in prompts."),
    click.option("--be", type=click.IntRange(1), help="Size of E, in prompts (default: 256)."),
    click.option("--bu", type=click.IntRange(1), help="Size of U, in prompts (default: 32)."),
    click.option("--runs", type=click.IntRange(1), help="Runs of each size (default: 3; sanity-check 15)."),
    click.option("--verbose", is_flag=True, help="Every message, with norms of the gradients."),
    click.option("--minimal", is_flag=True, help="The key results of each run, and the summary."),
    click.option("--quiet", is_flag=True, help="The summary only."),
    click.option("--save-gradients", is_flag=True, help="Keep the gradients of each run."),
    click.option("--no-delta-h1", is_flag=True, help="Predict nothing, only measure."),
    click.option("--label", metavar="NAME", help="Name of the experiment's directory, before the time."),
    click.option(
        "--results",
        type=FilePath(file_okay=False),
        default="results",
        show_default=True,
        help="The directory of all experiments.",
    ),
    set_option,
    ranks_option,
    trust_option,
    json_option,
    plugin_option,
)


def _experiment(name: str, text: str) -> click.Command:
    def run(context: click.Context, **options: Any) -> None:
        context.exit(_run(name, **options))

    command: Callable[..., Any] = click.pass_context(run)
    for option in reversed(OPTIONS):
        command = option(command)
    return click.command(name, help=text)(command)


_CODES = "Exit codes: 0 done, 1 every run failed, 2 wrong request, 130 interrupted (finished runs are kept)."
single = _experiment("single", f"One probe in an experiment directory, with its log.\n\n{_CODES}")
batch_scaling = _experiment(
    "batch-scaling",
    f"""Several runs of each size of E, all with one update: does the prediction converge as E grows, as it should, or
    fall like 1 / B_E?

    {_CODES}""",
)
sanity_check = _experiment(
    "sanity-check",
    f"""Many runs of one size, all with one update, against criteria that hold if the probe is right.

    {_CODES.replace("2 wrong request", "2 wrong request, 3 a criterion is not met")}""",
)
debug = _experiment("debug", f"One run of each size with all estimators and every message.\n\n{_CODES}")


def _run(
    name: str,
    config: str | None,
    no_delta_h1: bool,
    label: str | None,
    results: Path,
    ranks: int,
    as_json: bool,
    **options: Any,
) -> int:
    """Run an experiment and print its summary; return the exit code."""
    from ..experiments.config import read_experiment

    for flag in UNUSED[name]:
        if options[flag]:
            click.echo(f"notice: --{flag.replace('_', '-')} does nothing with {name}", err=True)
            options[flag] = None
    verbosity = Verbosity.of(options["verbose"], options["minimal"], options["quiet"])
    flags = {
        "batch_config.B_E": options["be"],
        "batch_config.B_E_values": options["be_values"],
        "batch_config.B_U": options["bu"],
        "batch_config.runs_per_batch": options["runs"],
        "output.log_level": verbosity.level,
    }
    changes = over(options["checkpoint"], options["overrides"], flags)
    # the configuration is read before ranks start, so that its problems are told once
    read = read_experiment(name, config, changes, truth_only=no_delta_h1)
    start_ranks(ranks)
    from ..experiments.experiments import EXPERIMENTS

    experiment = EXPERIMENTS[name](
        read=read,
        results=results,
        label=label,
        save_gradients=bool(options["save_gradients"]),
        on_run=lambda record: print_run(record, verbosity),
    )
    with console(verbosity):
        outcome = experiment.run()
    if outcome.directory is not None:
        print_outcome(name, outcome, as_json)
    return outcome.exit_code
