"""``uncollapse train``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import mention_plugins, plugin_option, set_option


@click.command("train")
@click.argument("experiment", metavar="NAME|FILE")
@set_option
@click.option("--run-dir", type=click.Path(path_type=Path, file_okay=False), help="Default: runs/NAME.")
@click.option("--resume", is_flag=True, help="Continue the run in --run-dir from its last good checkpoint.")
@click.option("--ranks", type=click.IntRange(1), help="Processes, one per GPU (default: 1; of a hostfile: all slots).")
@click.option("--hostfile", type=click.Path(path_type=Path), help="Several machines: a line `host slots=N` for each.")
@click.option("--dry-run", is_flag=True, help="Print what would run and stop.")
@plugin_option
@click.pass_context
def command(
    ctx: click.Context,
    experiment: str,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    resume: bool,
    ranks: int | None,
    hostfile: Path | None,
    dry_run: bool,
) -> None:
    """Train an experiment.

    Exit codes: 0 trained to the last step, 1 failed, 2 wrong request, 3 stopped by a detector, 130 interrupted (the
    first Ctrl-C finishes the step and writes a checkpoint, the second stops at once; continue with --resume).
    """
    from ..core.config import compose
    from ..core.streams import never_fail

    if not dry_run:
        never_fail()
    mention_plugins()
    composed = compose(experiment, overrides)
    run_dir = run_dir or Path("runs") / Path(experiment).stem
    if dry_run:
        from ..core.config import dump_yaml
        from ..plugins.training.plan import describe

        click.echo(dump_yaml(composed))
        click.echo(describe(composed, run_dir))
        return
    if hostfile is not None:
        from ..plugins.training.distributed import relaunch_on

        relaunch_on(hostfile, ranks, composed, run_dir)
    elif ranks is not None and ranks > 1:
        from ..core.compatibility import check_ranks
        from ..plugins.training.distributed import relaunch

        check_ranks(composed, ranks)
        relaunch(ranks, run_dir)
    from ..plugins.training.train import train

    outcome = train(composed, run_dir, resume)
    ctx.exit(outcome.exit_code)
