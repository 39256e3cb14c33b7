"""The commands of ``probe`` print messages and runs on standard error, and the summary on standard output."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ....core.console.options import print_columns, print_json
from ..messages import heard

if TYPE_CHECKING:
    from ..experiments.experiments import Outcome

OF_PAGE = {"estimand", "mean weight", "clipped", "over the smallest", "if it were 1 / B_E"}
"""Columns that a terminal has no room for."""


class Verbosity(Enum):
    """The verbosity says how much is printed while an experiment runs."""

    VERBOSE = "verbose"
    NORMAL = "normal"
    MINIMAL = "minimal"
    QUIET = "quiet"

    @classmethod
    def of(cls, verbose: bool, minimal: bool, quiet: bool) -> Verbosity:
        """Return the verbosity that the flags ask for; of several flags the first counts."""
        flags = {cls.VERBOSE: verbose, cls.MINIMAL: minimal, cls.QUIET: quiet}
        return next((verbosity for verbosity, is_set in flags.items() if is_set), cls.NORMAL)

    @property
    def level(self) -> str | None:
        """Lowest level of messages; ``None`` leaves it to the configuration."""
        return {Verbosity.VERBOSE: "DEBUG", Verbosity.MINIMAL: "INFO"}.get(self)


def console(verbosity: Verbosity) -> AbstractContextManager[None]:
    """Send messages of the probe to standard error, if the user wants messages and this is the first process."""
    if verbosity in (Verbosity.MINIMAL, Verbosity.QUIET) or os.environ.get("RANK", "0") != "0":
        return nullcontext()
    return heard(None, "%(levelname)s %(message)s")


def print_run(record: Mapping[str, Any], verbosity: Verbosity) -> None:
    """Print one line for a run that has ended, unless only the summary is wanted."""
    if verbosity is not Verbosity.QUIET:
        click.echo(
            ", ".join(f"{key} {cell}".removeprefix("run ") for key, cell in _row(record).items() if cell), err=True
        )


def print_outcome(name: str, outcome: Outcome, as_json: bool) -> None:
    """Print the summary of an experiment."""
    summary = outcome.summary
    if as_json:
        print_json(summary)
        return
    # an experiment of one run has its result alone, ``None`` if it was interrupted before
    records = summary["all_results"] if "all_results" in summary else [summary["result"]]
    rows = [_row(record) for record in records if record is not None]
    if name == "single" and rows and records[0]["success"]:
        print_result(records[0]["full_results"])
    elif rows:
        _print_rows(rows)
        _print_step(records)
    if name == "debug":
        for record in records:
            if record["success"]:
                _print_estimators(record)
                if len(record["full_results"]["truth"]) > 1:
                    _print_truths(record["full_results"]["truth"])
    if name == "batch-scaling":
        _print_scaling(summary["analysis"])
    if name == "sanity-check":
        _print_criteria(summary["analysis"])
    if summary["interrupted"]:
        click.echo(f"interrupted: {len(rows)} of {outcome.planned} runs are done")
    elif not any(record["success"] for record in records):
        click.echo("every run failed; each directory has an error.txt")
    click.echo(f"results     {outcome.directory}")


def _print_step(records: list[Mapping[str, Any]]) -> None:
    """Print the step that all runs of an experiment predict."""
    from ..next_step import step_lines

    result = next((record["full_results"] for record in records if record["success"]), None)
    if result is not None:
        click.echo()
        print_columns(_named("step", step_lines(result["step"])))


def print_result(result: Mapping[str, Any]) -> None:
    """Print the results of one probe."""
    from ..next_step import step_lines
    from ..report.readable import short

    seconds = short(result["timing"]["total_time"], ".1f")
    rows = [
        *_changes(result),
        ("estimand", f"change of the policy's entropy, {result['entropy_unit']}, to {_order(result)}"),
        *_named("step", step_lines(result["step"])),
        ("batches", f"B_E {result['B_E']}, B_U {result['B_U']}, G {result['G']}"),
        ("time", f"{seconds} s, peak {_memory(result)} ({result['peak_memory_of']})"),
        *(("note", note) for note in result["checkpoint"]["notes"]),
        *(("warning", line) for line in result["warnings"]),
        *(("ignored", line) for line in result["ignored"]),
    ]
    if result.get("log_file"):
        rows.append(("log", result["log_file"]))
    print_columns(rows)
    if len(result["truth"]) > 1:
        _print_truths(result["truth"])


def _changes(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return rows of the predicted and the measured change, and of how sure each is."""
    from ..experiments.criteria import traffic_light
    from ..report.readable import short, with_error

    unit, se = result["measured_in"], _error(result)
    rows = []
    if result["deltaH1"] is not None:
        light = traffic_light(se, result["deltaH1"])
        rows.append(("predicted", f"deltaH1 = {with_error(result['deltaH1'], se)} {unit}"))
        rows.append(("", f"|SE/deltaH1| = {short(result['se_over_deltaH1'])} ({light or 'no standard error'})"))
    if result.get("deltaH_true") is not None:
        true = with_error(result["deltaH_true"], result["deltaH_true_se"])
        rows.append(("measured", f"deltaH_true = {true} {unit}"))
        weights = result["diagnostics"]
        rows.append(("", f"ESS {short(weights['ESS'], '.1f')} of {weights['N_total']} sequences{_low(weights)}"))
    return rows


def _print_truths(points: list[Mapping[str, Any]]) -> None:
    """Print the truth at every eta that was asked for."""
    from ..report import rows

    click.echo()
    _print_rows([rows.step(point) for point in points])


def _print_rows(rows: Sequence[Mapping[str, str]]) -> None:
    """Print a table, without the columns that are left to the page."""
    columns = [column for column in rows[0] if column not in OF_PAGE]
    lines = [tuple(columns)]
    for row in rows:
        lines.append(tuple(row[column] for column in columns))
    print_columns(lines)


def _print_estimators(record: Mapping[str, Any]) -> None:
    """Print every standard error of one run, or why there is none."""
    from ..report import rows
    from ..report.readable import with_error

    result = record["full_results"]
    click.echo(f"\n{Path(record['files']['config']).parent.name}, estimators")
    _print_rows([rows.estimate(name, estimate) for name, estimate in result["variance"].items()])
    forms = result["prediction"]["forms"] if result["prediction"] else {}
    stated = (f"{name} {with_error(form['deltaH1'], form['se'])}" for name, form in forms.items())
    if forms:
        click.echo(f"forms of the prediction: {', '.join(stated)}")
    for warning in result["warnings"]:
        click.echo(f"warning: {warning}")


def _named(name: str, lines: list[str]) -> list[tuple[str, str]]:
    """Return rows of which the first has the name."""
    return [(name if number == 0 else "", line) for number, line in enumerate(lines)]


def _low(weights: Mapping[str, Any]) -> str:
    return ", too low to trust" if weights["ESS_too_low"] else ""


def _order(result: Mapping[str, Any]) -> str:
    parts = ["first order"] if result["deltaH1"] is not None else []
    parts += ["all orders by importance sampling"] if result.get("deltaH_true") is not None else []
    return " and to ".join(parts)


def _error(result: Mapping[str, Any]) -> float | None:
    """Return the standard error of the prediction over draws of E."""
    return result.get("SE_conditional") or result.get("deltaH1_se")


def _memory(result: Mapping[str, Any]) -> str:
    from ..report.readable import short

    return f"{short(result['peak_memory_bytes'] / 2**30, '.2f')} GiB"


def _row(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of one run."""
    from ..report.readable import short, with_error

    result = record.get("full_results") or {}
    name = Path(next(iter(record["files"].values()))).parent.name
    if not record["success"]:
        return dict.fromkeys(_COLUMNS, "") | {"run": name, "deltaH1": f"failed: {record['error'].splitlines()[0]}"}
    return {
        "run": name,
        "B_E": str(record["B_E"]),
        "deltaH1": with_error(record["deltaH1"], _error(result)),
        "|SE/deltaH1|": short(record["se_over_deltaH1"]),
        "deltaH_true": with_error(record["deltaH_true"], result.get("deltaH_true_se")),
        "seconds": short(record["runtime"], ".1f"),
        "peak memory": _memory(record),
    }


_COLUMNS = ("run", "B_E", "deltaH1", "|SE/deltaH1|", "deltaH_true", "seconds", "peak memory")


def _print_scaling(analysis: Mapping[str, Any]) -> None:
    from ..report import rows
    from ..report.readable import with_error

    if sizes := rows.sizes(analysis):
        click.echo()
        _print_rows(sizes)
    law = analysis["se_scaling"]["SE_conditional"]
    click.echo()
    if law is not None:
        click.echo(f"SE falls as B_E to the power {with_error(law['slope'], law['se'])}; −0.5 is expected")
    click.echo(f"verdict     {analysis['verdict']}: {analysis['evidence']}")


def _print_criteria(analysis: Mapping[str, Any]) -> None:
    from ..report import rows

    click.echo()
    _print_rows([rows.criterion(item) for item in analysis["criteria"]])
    click.echo()
    judged = [item["passed"] for item in analysis["criteria"] if item["passed"] is not None]
    rest = len(analysis["criteria"]) - len(judged)
    click.echo(f"{sum(judged)} of {len(judged)} criteria are met; {rest} do not apply or were not measured")
