"""The result table of docs/interventions.md is made from the report of the sweep ``interventions``.

    uncollapse sweep report DIR --json > REPORT.json
    python benchmarks/interventions_table.py REPORT.json
    python benchmarks/interventions_table.py --from-csv

The first form writes benchmarks/results/interventions.csv, a row for each remedy that has a run for every seed beside
one of the baseline, and then the page. The second makes only the page anew, from the committed file.

p-values are corrected once more, by Holm's procedure over the remedies of the file: a report that is made before all
runs have ended also corrects for those that have some of their seeds only. So corrected values change when more
remedies are measured. What is not in the file and would be a point of the sweep is named as not measured yet.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uncollapse.core.registry import registry
from uncollapse.plugins.report.multiple import holm
from uncollapse.plugins.report.ranking import LEVEL
from uncollapse.plugins.sweeps.interventions import AXIS, BASELINE, BESIDE, Interventions

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "benchmarks/results/interventions.csv"
PAGE = ROOT / "docs/interventions.md"
BEGIN = "<!-- made by benchmarks/interventions_table.py from benchmarks/results/interventions.csv -->"
END = "<!-- end of what is made -->"
MEASURES = ("success", "area", "entropy", "information", "seconds")
PARTS = ("mean", "difference", "se", "p", "p_adjusted")
HEAD = (
    "| remedy | success | difference | corrected p | area, difference | entropy left | MI left | s / step |",
    "|---|---|---|---|---|---|---|---|",
)
Row = dict[str, str]


def measured(report: Mapping[str, Any]) -> list[Row]:
    """Return a row for each remedy with all pairs, the baseline among them, in the order of the ranking."""
    seeds = len(report["axes"]["seed"])
    complete = [row for row in report["ranking"]["rows"] if row["pairs"] == seeds]
    rows: list[Row] = [{"remedy": row["value"], "pairs": str(seeds)} for row in complete]
    for measure in MEASURES:
        estimates = [row["estimates"][measure] for row in complete]
        corrected = holm([each["p"] for each in estimates])
        for row, each, p_adjusted in zip(rows, estimates, corrected, strict=True):
            values = {**each, "p_adjusted": p_adjusted}
            row |= {f"{measure}_{part}": _digits(values[part]) for part in PARTS}
    return rows


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def read(path: Path = TABLE) -> list[Row]:
    """Return the rows of the committed file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(rows: Sequence[Row], path: Path = TABLE) -> None:
    """Write the rows to a file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def remedies() -> list[str]:
    """Return all remedies of the sweep that are this project's own, in its order, without the baseline."""
    values = [case["values"][AXIS] for case in Interventions().record()["cases"]]
    known = {f"{kind} {name}" for kind in BESIDE for name in own(kind)}
    return [value for value in values if value.partition("(")[0] in known]


def own(kind: str) -> list[str]:
    """Return the names of a kind that this project registers."""
    return [entry.name for entry in registry().entries(kind) if entry.distribution == "uncollapse"]


def lines(rows: Iterable[Row], expected: Iterable[str]) -> Iterator[str]:
    """Yield the lines of the page: the table, and what is not measured yet of the remedies that are expected."""
    rows = list(rows)
    known = {row["remedy"] for row in rows}
    compared = [row for row in rows if row["remedy"] != BASELINE]
    seeds = rows[0]["pairs"]
    yield f"{len(compared)} remedies with {seeds} seeds each; p-values are corrected for {len(compared)} comparisons."
    yield ""
    yield from HEAD
    yield from map(_line, rows)
    yield ""
    told_apart = [
        f"`{row['remedy']}` ({', '.join(names)})"
        for row in compared
        if (names := [name for name in MEASURES[:4] if apart(row, name)])
    ]
    yield f"Told apart from the baseline: {', '.join(told_apart) or 'none'}."
    missing = [f"`{value}`" for value in expected if value not in known]
    if missing:
        yield ""
        yield f"Not measured yet: {', '.join(missing)}."


def _line(row: Row) -> str:
    name, difference, corrected, area = f"**{BASELINE}**", "", "", ""
    if row["remedy"] != BASELINE:
        name, corrected = f"`{row['remedy']}`", _shown(row, "success_p_adjusted", ".2f")
        difference = f"{_shown(row, 'success_difference', '+.3f')} ± {_shown(row, 'success_se', '.3f')}"
        difference += _star(row, "success")
        area = _shown(row, "area_difference", "+.3f") + _star(row, "area")
    success, seconds = _shown(row, "success_mean", ".3f"), _shown(row, "seconds_mean", ".1f")
    entropy = _shown(row, "entropy_mean", ".3f") + _star(row, "entropy")
    information = _shown(row, "information_mean", ".2f") + _star(row, "information")
    return f"| {' | '.join((name, success, difference, corrected, area, entropy, information, seconds))} |"


def _shown(row: Row, key: str, digits: str) -> str:
    return format(float(row[key]), digits).replace("-", "−") if row[key] else "–"


def apart(row: Row, measure: str) -> bool:
    """Say whether the remedy is told apart from the baseline in this measure."""
    corrected = row[f"{measure}_p_adjusted"]
    return corrected != "" and float(corrected) <= LEVEL


def _star(row: Row, measure: str) -> str:
    return " \\*" if apart(row, measure) else ""


def with_part(page: str, part: Iterable[str]) -> str:
    """Return the text of the page with another part between the two marks. Raises ValueError without the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}")
    return "\n".join([before + BEGIN, "", *part, "", END + after])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", nargs="?", type=Path, help="what `uncollapse sweep report DIR --json` printed")
    parser.add_argument("--from-csv", action="store_true", help="make only the page, from the committed file")
    options = parser.parse_args()
    if (options.report is None) is not options.from_csv:
        parser.error("give either a report or --from-csv")
    if options.report:
        rows = measured(json.loads(options.report.read_text("utf-8")))
        if len(rows) < 2:
            parser.error(f"{options.report}: no remedy has a run for every seed beside one of the baseline")
        write(rows)
    rows = read()
    PAGE.write_text(with_part(PAGE.read_text("utf-8"), lines(rows, remedies())), "utf-8")
    print(f"{TABLE.relative_to(ROOT)}: {len(rows) - 1} remedies; {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
