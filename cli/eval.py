"""``uncollapse eval``."""

from __future__ import annotations

from pathlib import Path

import click

from .options import (
    FilePath,
    FiniteRange,
    json_option,
    plugin_option,
    print_columns,
    print_json,
    set_option,
    trust_option,
)


@click.command("eval")
@click.argument("checkpoint", type=FilePath())
@click.option("--groups", type=click.IntRange(2), help="Validation groups; default: those of the experiment.")
@click.option("--temperature", type=FiniteRange(0), help="Default: that of the experiment; 0 is greedy.")
@set_option
@trust_option
@json_option
@plugin_option
def command(
    checkpoint: Path,
    groups: int | None,
    temperature: float | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Success of a checkpoint on the validation groups of its experiment, with the standard error.

    CHECKPOINT is RUN/checkpoints/step_N, or a run directory (its last good checkpoint). ``--set rollout.engine=hf``
    evaluates a run of another engine where that is not installed.
    """
    from ..plugins.training.evaluate import evaluate

    metrics = evaluate(checkpoint, groups, temperature, overrides)
    if as_json:
        print_json(metrics)
        return
    error = metrics["validation/success_se"]
    episodes = metrics["validation/episodes"]
    click.echo(f"success {metrics['validation/success']:.3f} +- {error:.3f} ({episodes:.0f} episodes)")
    print_columns([(name.removeprefix("validation/"), f"{value:.4g}") for name, value in sorted(metrics.items())])
