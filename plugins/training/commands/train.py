"""The command ``uncollapse train``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ....core.console.options import FilePath, mention_plugins, plugin_option, set_option
from ....core.errors import RequestError

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment


def require_models(experiment: Experiment) -> None:
    """Raise RequestError, before anything large is imported, if a model is neither a directory nor on the hub."""
    from ....core.compose import hub
    from ....core.paths import is_folder

    critic = experiment.critic
    for key, path in (("model.path", experiment.model.path), ("critic.path", critic.path if critic else None)):
        if path is not None and not is_folder(path):
            hub.require(path, key)


@click.command("train")
@click.argument("experiment", metavar="NAME|FILE")
@set_option
@click.option("--run-dir", type=FilePath(file_okay=False), help="Default: runs/NAME.")
@click.option("--resume", is_flag=True, help="Continue the run in --run-dir from its last good checkpoint.")
@click.option(
    "--steps", type=click.IntRange(1), help="Training steps; with --resume: train the run further, to step N."
)
@click.option("--overrule", is_flag=True, help="With --resume: go on although a detector has stopped the run.")
@click.option("--ranks", type=click.IntRange(1), help="Processes, one per GPU (default: 1; of a hostfile: all slots).")
@click.option("--hostfile", type=FilePath(), help="Several machines: a line `host slots=N` for each.")
@click.option("--dry-run", is_flag=True, help="Print what would run and stop.")
@plugin_option
@click.pass_context
def command(
    ctx: click.Context,
    experiment: str,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    resume: bool,
    steps: int | None,
    overrule: bool,
    ranks: int | None,
    hostfile: Path | None,
    dry_run: bool,
) -> None:
    """Train an experiment.

    Exit codes: 0 trained to the last step, 1 failed, 2 wrong request, 3 stopped by a detector, 130 interrupted (the
    first Ctrl-C finishes the step and writes a checkpoint, the second stops at once; continue with --resume).
    """
    from ....core.compose.config import compose
    from ....core.console.streams import never_fail
    from ..processes.place import read_place

    if overrule and not resume:
        raise RequestError("--overrule is for a run that a detector has stopped", fix="give --resume as well")
    if not dry_run:
        never_fail()
    launches = hostfile is not None or (ranks or 1) > 1
    if not launches or "RANK" in os.environ:
        read_place()
    mention_plugins()
    composed = compose(experiment, [*overrides, *_of_steps(steps, overrides)])
    run_dir = run_dir or Path("runs") / Path(experiment).stem
    if dry_run:
        from ....core.compose.config import dump_yaml
        from .dry_run import describe

        click.echo(dump_yaml(composed))
        click.echo(describe(composed, run_dir))
        return
    require_models(composed)
    if hostfile is not None:
        from ..processes.launch import relaunch_on

        relaunch_on(hostfile, ranks, composed, run_dir)
    elif ranks is not None:
        from ....core.compose.combinations import check_ranks
        from ..processes.launch import relaunch

        check_ranks(composed, ranks)
        relaunch(ranks, run_dir)
    from ..train import train

    outcome = train(composed, run_dir, resume, steps=steps, overrule=overrule)
    ctx.exit(outcome.exit_code)


def _of_steps(steps: int | None, overrides: Sequence[str]) -> list[str]:
    """Return the override that ``--steps`` means. Raises RequestError if ``--set`` gives the steps as well."""
    if steps is None:
        return []
    if any(word.partition("=")[0].strip() == "trainer.steps" for word in overrides):
        raise RequestError("trainer.steps is given twice: --steps, --set", fix="drop one of them")
    return [f"trainer.steps={steps}"]
