"""``uncollapse detect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import click

from ...core.console.options import FilePath, json_option, plugin_option, print_columns, print_json, trust_option


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
    """Replay detectors over the metrics of finished runs: at which step would each have spoken?

    RUN_DIR is a run, or a sweep with all of its runs. With --outcome, a run has collapsed if the condition holds from
    some step to its end; each detector is then scored: caught and missed collapses, false alarms, and its lead in
    steps.
    """
    from .replay import Outcome, find_runs, replay_all, score, usable

    condition = None if outcome is None else Outcome.read(outcome)
    runs, left_out = usable(find_runs(directories), condition)
    for reason in left_out:
        click.echo(f"left out: {reason}", err=True)
    found = replay_all(runs, detectors, condition)
    scores = score(found) if condition else []
    if as_json:
        print_json(
            {"runs": [attrs.asdict(item) for item in found], "detectors": [attrs.asdict(item) for item in scores]}
        )
        return
    rows = [("run", "detector", "spoke at", "of", *(("collapsed at", "lead") if condition else ()), "why")]
    for item in found:
        told = (_text(item.collapsed_at), _text(item.lead)) if condition else ()
        silent = f"it cannot judge: the run never logged {' or '.join(item.unlogged)}" if item.unlogged else ""
        spoke, why = (str(item.verdict.step), item.verdict.reason) if item.verdict else ("–", silent)
        rows.append((str(item.run), item.detector, spoke, str(item.steps), *told, why))
    print_columns(rows)
    if scores:
        click.echo()
        columns = [field.name for field in attrs.fields(type(scores[0]))]
        print_columns([tuple(columns), *(tuple(_text(getattr(s, c)) for c in columns) for s in scores)])


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
