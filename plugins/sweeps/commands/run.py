"""``uncollapse sweep run`` runs the points of a sweep."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ....core.console.options import FiniteRange, json_option, per_gpu_option, print_json
from ....core.console.streams import never_fail
from ....core.errors import RequestError, UncollapseError
from ....core.terminal import escaped
from .group import print_notices, sweep_of, what_options
from .print_report import print_report

if TYPE_CHECKING:
    from ..run import Options
    from ..skip_or_resume import Prepared

RESOURCES = {
    "gpus": "gpus",
    "gpus_per_exp": "gpus_per_job",
    "ray_num_cpus": "cpus_per_job",
    "slots": "slots",
    "max_parallel": "max_parallel",
    "cooldown": "cooldown_s",
}
"""Parameter of the launcher for each option."""


def run_command(command: click.Command) -> click.Command:
    """Add the options of ``sweep run NAME``."""
    command.callback = _run_points
    what_options(command)
    json_option(command)
    for option in (
        click.option("--dry-run", is_flag=True, help="Print points, commands and slots, and stop."),
        click.option(
            "--wandb-sync",
            type=click.Choice(["each", "end", "never"]),
            default="never",
            show_default=True,
            help="When W&B runs that were recorded offline are uploaded.",
        ),
        click.option(
            "--retries",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="How often a failed run is tried again.",
        ),
        click.option(
            "--skip-statuses",
            default="success",
            show_default=True,
            help="Runs of the same configuration that ended so are not run again; stopped is any detector.",
        ),
        click.option(
            "--stale",
            type=click.Choice(["ask", "keep", "rerun"]),
            default="ask",
            show_default=True,
            help="What to do about runs that were made with other sources of their plugins than those of now.",
        ),
        click.option("--cooldown", type=FiniteRange(0), help="Seconds that a slot rests after a run."),
        click.option("--max-parallel", type=click.IntRange(1), help="Runs at a time, at most."),
        click.option("--slots", metavar="N", help="Slots of this machine (default: as many as there are)."),
        click.option("--ray-num-cpus", type=click.IntRange(1), help="CPUs of a run, where Ray or Slurm gives them."),
        click.option("--gpus-per-exp", type=click.IntRange(1), help="GPUs of a run (default: 1)."),
        click.option(
            "--gpu-gib", type=FiniteRange(0.001, 10_000), metavar="GIB", help="With --per-gpu: of the smallest GPU."
        ),
        per_gpu_option("Runs at a time on each GPU, each in its share of the memory; auto: as many as fit."),
        click.option("--gpus", metavar="0,1", help="Which GPUs (default: all)."),
        click.option("--launcher", default="local", show_default=True, help="What runs them."),
    ):
        option(command)
    return command


@click.pass_context
def _run_points(
    context: click.Context, root: Path | None, launcher: str, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Run every point that is not to be skipped, resume what has begun, and write the report."""
    from ...report.sweep_report import read_report
    from ..run import Options
    from ..sweep import make_launcher

    resources = {name: options.pop(name) for name in RESOURCES}
    how = Options(
        skip_statuses=tuple(_statuses(options.pop("skip_statuses"))),
        retries=options.pop("retries"),
        stale=options.pop("stale"),
        wandb_sync=options.pop("wandb_sync"),
        progress="stderr" if as_json else "stdout",
        per_gpu=options.pop("per_gpu"),
        gpu_gib=options.pop("gpu_gib"),
    )
    sweep = sweep_of(context, options)
    made = make_launcher(launcher, **_resources(launcher, resources))
    print_notices(sweep)
    if dry_run and as_json:
        raise RequestError("--dry-run prints no results as JSON", fix="uncollapse sweep show NAME --json")
    if dry_run:
        _dry_run(sweep.prepared(root, made.gpus_per_job), made, how)
        return
    never_fail()
    result = sweep.run(root, made, how)
    try:
        if as_json:
            print_json(read_report(result.home).to_dict())
        else:
            print_report(read_report(result.home))
    except (UncollapseError, OSError) as error:  # how the runs ended is none the worse
        click.echo(escaped(f"no report was written: {error}"), err=True)
    context.exit(result.exit_code)


def _statuses(text: str) -> list[str]:
    states = ("success", "stopped", "failed", "interrupted", "none")
    statuses = [item.strip() for item in text.split(",")]
    for item in statuses:
        if item not in states and not item.startswith("stopped:"):
            raise RequestError(
                f"--skip-statuses has no status {item!r}", fix=f"choose of {', '.join(states)}, stopped:<detector>"
            )
    return [item for item in statuses if item != "none"]


def _resources(launcher: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the launcher's parameters that were asked for; a launcher that gives no CPUs of its own is no mistake."""
    from ....core import describe
    from ....core.compose.spec import read_spec
    from ....core.registry import registry

    name = read_spec(launcher).name
    parameters = {parameter.name for parameter in describe.parameters(registry().resolve("launcher", name))}
    asked = {}
    for option, value in given.items():
        if value is None:
            continue
        if option == "slots":
            value = int(value) if value.isdecimal() and len(value) < 10 else value
        if option == "ray_num_cpus" and "cpus_per_job" not in parameters:
            click.echo(f"notice: --ray-num-cpus does nothing with the launcher {name}", err=True)
        else:
            asked[RESOURCES[option]] = value
    return asked


def _dry_run(points: list[Prepared], launcher: Any, how: Options) -> None:
    from ..foreseen import foreseen
    from ..run import command_of
    from ..side_by_side import sharing
    from ..skip_or_resume import refuse_stale

    shared = sharing(points, launcher, how.per_gpu, how.gpu_gib)
    launcher = shared.launcher
    slots = launcher.describe()
    if how.stale == "ask":
        refuse_stale(points, how.skip_statuses)
    click.echo(f"{len(points)} points")
    for point in points:
        click.echo(f"{point.place.name}  {point.place.run}")
        for line in foreseen(point, how.skip_statuses, how.stale):
            click.echo(f"    {escaped(line)}")
        variables = [f"{name}={value} " for name, value in shared.environment.items()]
        click.echo(f"    {''.join(variables)}{shlex.join(command_of(point, launcher))}")
    click.echo("slots")
    if shared.words:
        click.echo(f"    {shared.words}")
    for line in slots:
        click.echo(f"    {line}")
