"""The command ``uncollapse eval``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import click

from ....core.console.options import (
    FilePath,
    FiniteRange,
    json_option,
    plugin_option,
    print_columns,
    print_json,
    set_option,
    trust_option,
)

CONFIDENCE = 0.95


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
    """Measure the success of a checkpoint on the validation groups of its experiment, with the standard error.

    CHECKPOINT is RUN/checkpoints/step_N, or a run directory (its last good checkpoint). ``--set rollout.engine=hf``
    evaluates a run of another engine where that is not installed.
    """
    from ..evaluate import evaluate

    metrics = evaluate(checkpoint, groups, temperature, overrides)
    if as_json:
        print_json(metrics)
        return
    click.echo(_success(metrics))
    print_columns([(name.removeprefix("validation/"), f"{value:.4g}") for name, value in sorted(metrics.items())])


def _success(metrics: Mapping[str, float]) -> str:
    """Write the success with its error, and with a bound if all tasks ended alike, which makes the error 0."""
    success = metrics["validation/success"]
    error = metrics["validation/success_se"]
    episodes = metrics["validation/episodes"]
    tasks = metrics["validation/tasks"]
    if math.isnan(error):
        return f"success {success:.3f}, without a standard error: all {episodes:.0f} episodes are of one task"
    summary = f"success {success:.3f} +- {error:.3f} ({episodes:.0f} episodes)"
    if success not in (0, 1):
        return summary
    # of n tasks that are right with probability p, none is with probability (1 - p)^n
    bound = 1 - (1 - CONFIDENCE) ** (1 / tasks)
    side = f"at most {bound:.2g}" if success == 0 else f"at least {1 - bound:.2g}"
    warning = f"all {tasks:.0f} tasks ended alike, which hides the error"
    return f"{summary}\n{warning}: the rate is {side}, at {CONFIDENCE:.0%} confidence"
