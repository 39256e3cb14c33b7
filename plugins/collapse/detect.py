"""The command ``uncollapse detect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from ...core.console.options import FilePath, json_option, plugin_option, print_columns, print_json, trust_option

if TYPE_CHECKING:
    from .replay import Replay


@click.command("detect")
@click.argument("directories", metavar="RUN_DIR...", nargs=-1, required=True, type=FilePath())
@click.option(
    "--detector", "detectors", multiple=True, required=True, metavar="NAME(...)", help="Which detector (repeatable)."
)
@click.option("--outcome", metavar="METRIC<NUMBER", help="What a collapsed run is, e.g. 'validation/success<0.1'.")
@trust_option
@json_option
@plugin_option
def command(directories: tuple[Path, ...], detectors: tuple[str, ...], outcome: str | None, as_json: bool) -> None:
    """Replay detectors over the metrics of finished runs, and show at which step each would have spoken.

    RUN_DIR is a run, or a sweep with all of its runs. With --outcome, a run has collapsed if the condition holds from
    some step to its end; each detector is then scored: caught and missed collapses, false alarms, and its lead in
    steps.
    """
    from .replay import Outcome, find_runs, replay_all, score, usable

    condition = None if outcome is None else Outcome.read(outcome)
    runs, left_out = usable(find_runs(directories), condition)
    for reason in left_out:
        click.echo(f"left out: {reason}", err=True)
    replays = replay_all(runs, detectors, condition)
    scores = score(replays) if condition else []
    if as_json:
        print_json(
            {"runs": [attrs.asdict(item) for item in replays], "detectors": [attrs.asdict(item) for item in scores]}
        )
        return
    print_columns([_header(condition is not None), *(_row(item, condition is not None) for item in replays)])
    if scores:
        click.echo()
        columns = [field.name for field in attrs.fields(type(scores[0]))]
        rows = [tuple(map(_text, attrs.astuple(item))) for item in scores]
        print_columns([tuple(columns), *rows])


def _header(with_outcome: bool) -> tuple[str, ...]:
    """Name the columns of the table of replays."""
    return ("run", "detector", "spoke at", "of", *(("collapsed at", "lead") if with_outcome else ()), "why")


def _row(item: Replay, with_outcome: bool) -> tuple[str, ...]:
    """Make one line of the table of replays."""
    step, reason = "–", ""
    if item.verdict:
        step, reason = str(item.verdict.step), item.verdict.reason
    elif item.unlogged:
        reason = f"it cannot judge: the run never logged {' or '.join(item.unlogged)}"
    outcome = (_text(item.collapsed_at), _text(item.lead)) if with_outcome else ()
    return (str(item.run), item.detector, step, str(item.steps), *outcome, reason)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
