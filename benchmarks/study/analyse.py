"""Make the page of the study from its rows.

    python benchmarks/study/analyse.py --rows DIR --thin      # keep what DIR has in results/, then make the page
    python benchmarks/study/analyse.py                        # make the page from results/ alone
    python benchmarks/study/analyse.py --rows DIR --quick --page OUT/study.md      # to try it out: a page of its own

``--thin`` writes the whole rows in DIR (``rows.py``) that are not in results/ there, as thin rows (``thin.py``).
The page, docs/study.md, has its tables between marks, and its figures in docs/images. The README has the first figure.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import figure
import plan
import rows
import tables
import thin
from uncollapse.plugins.sweeps.points import Point
from uncollapse.plugins.sweeps.sweep import Sweep

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/study.md"
README = ROOT / "README.md"
RESULTS = Path(__file__).with_name("results")
MARKED = re.compile(r"(<!-- study: (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def filled(page: str, parts: Mapping[str, Sequence[str]]) -> str:
    """Return the page with the parts between its marks.

    Raises ValueError if a part has no marks in the page, or the page has marks of a part that there is not.
    """
    marked = [name for _, name, _ in MARKED.findall(page)]
    if sorted(marked) != sorted(parts):
        raise ValueError(f"the page has the marks {marked}, and the parts are {list(parts)}")

    def part(match: re.Match[str]) -> str:
        text = "\n".join(parts[match[2]]).strip("\n")
        return f"{match[1]}\n{text}\n{match[3]}"

    return MARKED.sub(part, page)


def parts(study: tables.Study) -> dict[str, list[str]]:
    """Return the parts of docs/study.md."""
    return {"figures": list(figure.pictures(study, "images")), **tables.parts(study)}


def first_screen(study: tables.Study) -> dict[str, list[str]]:
    """Return the part of the README: the figure, once there is one."""
    lines = list(figure.first_screen(study, "docs/images"))
    return {"figure": [*lines, "[More](docs/study.md)."] if lines else []}


def keep(directory: Path, results: Path, quick: bool) -> list[Path]:
    """Write the whole rows of a directory as thin ones, without those that are there; returns the files written."""
    there = {row["hash"] for row in thin.read(results)}
    fresh = [row for row in rows.by_hash(rows.read(directory), ()).values() if row["quick"] == quick]
    kept = [thin.thin(row) for row in fresh if row["hash"] not in there]
    if not kept:
        return []
    number = 1 + len(list(results.glob("rows-*.jsonl")))
    file = results / f"rows-{number:03d}.jsonl"
    thin.write(kept, file)
    return [file]


def study_of(sweep: Sweep, points: Sequence[Point], found: Sequence[Mapping[str, Any]]) -> tables.Study:
    """Return the study of thin rows."""
    return tables.Study.of(sweep, points, rows.by_hash(found, {point.hash for point in points}))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, action="append", default=[], metavar="DIR", help="whole rows to look at")
    parser.add_argument("--thin", action="store_true", help="keep them in results/")
    parser.add_argument("--page", type=Path, default=PAGE, help="page to write; figures are written beside it")
    parser.add_argument("--quick", action="store_true", help="rows of run.py --quick, which measure nothing")
    options = parser.parse_args(words)
    if options.quick and (options.thin or options.page == PAGE):
        parser.error("--quick needs a --page of its own, and keeps nothing")
    for directory in options.rows if options.thin else ():
        for file in keep(directory, RESULTS, quick=False):
            print(f"kept in {file.relative_to(ROOT)}")
    whole = [row for directory in options.rows for row in rows.read(directory) if row["quick"] == options.quick]
    found = [*(() if options.quick else thin.read(RESULTS)), *map(thin.thin, whole)]
    sweep = plan.study(plan.QUICK if options.quick else plan.FULL)
    study = study_of(sweep, sweep.points(), found)
    if options.page != PAGE:
        options.page.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PAGE, options.page)
    text = options.page.read_text(encoding="utf-8")
    options.page.write_text(filled(text, parts(study)), encoding="utf-8")
    if options.page == PAGE:
        README.write_text(filled(README.read_text(encoding="utf-8"), first_screen(study)), encoding="utf-8")
    for file in figure.draw(study, options.page.parent / "images"):
        print(file)
    print(f"{options.page}: {len(study.rows)} of {study.planned} runs")


if __name__ == "__main__":
    main()
