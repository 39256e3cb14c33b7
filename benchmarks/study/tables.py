"""The parts of docs/study.md that follow from rows: tables and sentences, each a list of lines of Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import measures
import plan
import thin
from uncollapse.plugins.report import claim_table, correlation_table
from uncollapse.plugins.report.claim_check import check
from uncollapse.plugins.report.correlation import correlate
from uncollapse.plugins.report.data import RunData, SweepData
from uncollapse.plugins.report.following import Target
from uncollapse.plugins.report.metrics import INFORMATION, SUCCESS
from uncollapse.plugins.report.ranking import Estimate, Ranking, rank
from uncollapse.plugins.sweeps.interventions import AXIS
from uncollapse.plugins.sweeps.points import Point
from uncollapse.plugins.sweeps.sweep import Sweep

NOT_YET = "Not yet run."
Row = Mapping[str, Any]
Lines = list[str]
PREAMBLE = re.compile(r"^Turn \d+:\s*State:\s*|\s*Actions left: \d+\s*$")
CUT = 100
"""Characters of a task and of an answer that are shown."""
SHOWN = ("actor/entropy", INFORMATION, thin.INVALID, "rollout/in_group_reward_std")
"""Metrics whose correlations are shown whatever they are."""
SPEAKING = ("entropy_collapse", "format_collapse", "no_signal", "template_collapse")
"""Detectors of the experiments that give verdicts; the others measure."""
STRONGEST = 6
"""Other metrics whose correlations are shown, the strongest ones."""


@attrs.frozen
class Study:
    """The rows that the plan has, in its order."""

    sweep: Sweep
    planned: int
    rows: Sequence[Row]
    runs: Sequence[RunData]

    @classmethod
    def of(cls, sweep: Sweep, points: Sequence[Point], rows: Mapping[str, Row]) -> Study:
        """Return the study of the rows, by their hash; rows that are no point of the sweep are left out."""
        known = [rows[point.hash] for point in points if point.hash in rows]
        return cls(sweep, len(points), known, [thin.run_data(row) for row in known])

    @property
    def places(self) -> dict[tuple[str, str], list[Row]]:
        """The rows by task and algorithm."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row["values"]["task"], row["values"]["algorithm"]), []).append(row)
        return found

    def sweep_data(self, task: str, algorithm: str) -> SweepData:
        """Return the runs of a task and an algorithm as a sweep over remedies and seeds."""
        runs = [run for run in self.runs if (run.point["task"], run.point["algorithm"]) == (task, algorithm)]
        names = list(dict.fromkeys(run.point[AXIS] for run in runs))
        remedies = [plan.NONE, *(name for name in names if name != plan.NONE)]
        seeds = sorted({run.point["seed"] for run in runs}, key=int)
        return SweepData("study", Path(), {AXIS: remedies, "seed": seeds}, runs, ranked=True)


def parts(study: Study) -> dict[str, Lines]:
    """Return the lines of each part of the page by its name."""
    made = {
        "rows": what_was_run,
        "courses": courses,
        "detectors": detectors,
        "remedies": remedies,
        "correlations": correlations,
        "forecast": forecast,
        "claims": claims,
        "texts": texts,
    }
    return {name: list(make(study)) or [NOT_YET] for name, make in made.items()}


def table(cells: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield the lines of a table: a mapping of column to text for each of its lines."""
    if cells:
        yield f"| {' | '.join(cells[0])} |"
        yield "|" + "---|" * len(cells[0])
        yield from (f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row.values())} |" for row in cells)


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """Return a number as text; a dash where there is none."""
    return "–" if value is None else format(value, f"{'+' if sign else ''}.{digits}f").replace("-", "−")


def with_error(estimate: tuple[float, float | None] | None, digits: int = 3, sign: bool = False) -> str:
    """Return a mean with its standard error as text."""
    if estimate is None:
        return "–"
    mean, error = estimate
    return number(mean, digits, sign) + ("" if error is None else f" ± {number(error, digits)}")


# --- the parts --------------------------------------------------------------------------------------------------------


def what_was_run(study: Study) -> Iterator[str]:
    """Yield how much of the plan is there, on what it ran, and what is missing."""
    if not study.rows:
        return
    yield f"{len(study.rows)} of the {study.planned} runs of the plan are there."
    yield ""
    cells = []
    for (task, algorithm), rows in study.places.items():
        by_remedy = Counter(row["values"][AXIS] for row in rows)
        seeds = Counter(by_remedy.values())
        seconds = [row["seconds"] for row in rows]
        cells.append(
            {
                "task": task,
                "algorithm": algorithm,
                "runs": str(len(rows)),
                "stopped": str(sum(row["status"] != "success" for row in rows)),
                "settings by seeds": ", ".join(f"{count} with {number}" for number, count in sorted(seeds.items())),
                "steps": _one(row["steps"] for row in rows),
                "minutes of a run": f"{min(seconds) / 60:.1f} to {max(seconds) / 60:.1f}",
                "GPU": _one(row["gpu"] for row in rows),
                "side by side": _one(f"{row['side_by_side']} on {row['gpus']}" for row in rows),
                "dates": _one(row["date"] for row in rows),
                "torch, transformers": _one(
                    f"{row['versions']['torch']}, {row['versions']['transformers']}" for row in rows
                ),
            }
        )
    yield from table(cells)


def _one(values: Any) -> str:
    return "; ".join(dict.fromkeys(str(value) for value in values))


def courses(study: Study) -> Iterator[str]:
    """Yield what became of the runs without a remedy, with and without a warm start."""
    cells = []
    for (task, algorithm), rows in study.places.items():
        for control in plan.CONTROLS:
            own = [row for row in rows if row["values"][AXIS] == control]
            if own:
                fates = Counter(measures.course(row).fate for row in own)
                cells.append(
                    {
                        "task": task,
                        "algorithm": algorithm,
                        "start": "warm" if control == plan.NONE else "as published",
                        "seeds": str(len(own)),
                        "success, first → highest → last": _success(own),
                        "entropy (nats)": _ends(own, thin.ENTROPY),
                        "mutual information (nats)": _ends(own, INFORMATION),
                        "invalid turns": _ends(own, thin.INVALID),
                        "success": ", ".join(f"{fate} in {count}" for fate, count in fates.items()),
                    }
                )
    yield from table(cells)


def _ends(rows: Sequence[Row], metric: str) -> str:
    """Return the first and the last value of a metric, each as mean and standard error over runs."""
    known = [values for row in rows if (values := [value for _, value in thin.series(row, metric)])]
    ends = [measures.mean_and_error([values[at] for values in known]) for at in (0, -1)]
    return " → ".join(with_error(end) for end in ends) if known else "–"


def _success(rows: Sequence[Row]) -> str:
    known = [values for row in rows if (values := [value for _, value in thin.series(row, SUCCESS)])]
    made = ([values[0] for values in known], list(map(max, known)), [values[-1] for values in known])
    return " → ".join(with_error(measures.mean_and_error(each)) for each in made)


def detectors(study: Study) -> Iterator[str]:
    """Yield what the verdicts of each detector were worth, over all runs and over those without a remedy."""
    names = sorted({verdict["detector"] for row in study.rows for verdict in row["verdicts"]}.union(SPEAKING))
    untreated = [row for row in study.rows if row["values"][AXIS] in plan.CONTROLS]
    for title, rows in (("All runs", study.rows), ("Without a remedy", untreated)):
        if not rows:
            continue
        fates = Counter(measures.course(row).fate for row in rows)
        yield (
            f"**{title}** ({len(rows)}): "
            + "; ".join(f"{fate}: {count}" for fate, count in sorted(fates.items()))
            + "."
        )
        yield ""
        yield from table([_alarms(each) for each in measures.alarms(rows, names)])
        yield ""


def _alarms(each: measures.Alarms) -> dict[str, str]:
    return {
        "detector": f"`{each.detector}`",
        "success falls: before it": str(each.in_time),
        "with it or later": str(len(each.leads) - each.in_time),
        "never (missed)": str(each.missed),
        "lead in steps": with_error(each.lead, 0, sign=True),
        "success holds: spoke (false alarm)": str(each.false_alarms),
        "silent": str(each.silent),
        "nothing to lose: spoke": str(each.nothing_to_lose),
    }


def remedies(study: Study) -> Iterator[str]:
    """Yield the ranking of the remedies, for each task and algorithm."""
    for task, algorithm in study.places:
        ranking = rank(study.sweep_data(task, algorithm))
        if ranking is None or ranking.compared == 0:
            continue
        yield f"**{task}, {algorithm.upper()}** (beside the untreated runs: {ranking.compared})"
        yield ""
        yield from table([_ranked(ranking, row.value) for row in ranking.rows if row.pairs])
        yield ""


def _ranked(ranking: Ranking, value: str) -> dict[str, str]:
    row = next(row for row in ranking.rows if row.value == value)
    success = row.estimates["success"]
    return {
        "remedy": f"**{value}**" if value == plan.NONE else value,
        "seeds": str(row.pairs),
        "final success": number(success.mean),
        "difference": _difference(success),
        "p (Holm)": number(success.p_adjusted, 2) if value != plan.NONE else "",
        "verdict": success.verdict,
        "mean success": _kept(row.estimates["area"]),
        "entropy left": _kept(row.estimates["entropy"]),
        "MI left": _kept(row.estimates["information"]),
        "s / step": _kept(row.estimates["seconds"], 1),
    }


def _difference(estimate: Estimate) -> str:
    if estimate.difference is None or estimate.verdict == "baseline":
        return "–"
    return with_error((estimate.difference, estimate.se), sign=True)


def _kept(estimate: Estimate, digits: int = 3) -> str:
    star = " \\*" if estimate.verdict in ("higher", "lower") else ""
    return number(estimate.mean, digits) + star


def correlations(study: Study) -> Iterator[str]:
    """Yield the rank correlations of metrics with the success that follows."""
    if not any(run.series(SUCCESS) for run in study.runs):
        return
    found = correlate(study.runs, Target(SUCCESS), Path())
    strongest = [row for row in found.known if row.metric not in SHOWN][:STRONGEST]
    chosen = [row for row in found.known if row.metric in SHOWN or row in strongest]
    if not chosen:
        return
    columns = ("within runs", "p (Holm)", "at equal step", "p (Holm) at equal step", "over runs", "p (Holm) over runs")
    lines = [(row.metric, correlation_table.cells(row)) for row in chosen]
    yield from table([{"metric": f"`{name}`"} | {column: line[column] for column in columns} for name, line in lines])
    yield ""
    yield f"{found.runs} runs, {len(found.known)} metrics with a correlation, {found.tested} with an error within runs."
    yield f"{found.above} of these are above two standard errors, and up to {found.by_chance:.1f} would be by chance."


def forecast(study: Study) -> Iterator[str]:
    """Yield what the forecasts of the entropy's change were worth, by task and algorithm."""
    cells = []
    everything = [each for row in study.rows for each in measures.forecasts(row)]
    places = [(f"{task}, {algorithm.upper()}", rows) for (task, algorithm), rows in study.places.items()]
    for title, known in (
        *((title, [each for row in rows for each in measures.forecasts(row)]) for title, rows in places),
        ("all", everything),
        ("all that differ from no change", [each for each in everything if each.status == 0]),
    ):
        if known:
            cells.append(_forecast(title, known))
    yield from table(cells)


def _forecast(title: str, known: Sequence[measures.Forecast]) -> dict[str, str]:
    return {
        "runs": title,
        "forecasts": f"{len(known)} of {len({each.run for each in known})} runs",
        "z, mean": with_error(measures.over_runs(known, measures.z_mean), 2, sign=True),
        "z, standard deviation": with_error(measures.over_runs(known, measures.z_spread), 2),
        "skill": with_error(measures.over_runs(known, measures.skill), 2, sign=True),
        "best possible skill": number(measures.best_skill(known), 2, sign=True),
    }


def claims(study: Study) -> Iterator[str]:
    """Yield the claims of RAGEN-2 with what the runs say of them."""
    if not study.rows or not study.sweep.claims:
        return
    checked = check(study.runs, study.sweep.claims)
    columns = ("claim", "verdict", "source says", "ours", "p (Holm)", "seeds", "why", "source")
    cells = [claim_table.claim_cells(each) for each in checked.checked]
    yield from table([{name: line[name] or "–" for name in columns} for line in cells])
    yield ""
    yield f"{claim_table.verdicts(checked)}."


def texts(study: Study) -> Iterator[str]:
    """Yield what the same tasks were answered by untreated runs and by treated ones, at first and at the end."""
    for (task, algorithm), rows in study.places.items():
        told = {row["values"][AXIS]: row["said"] for row in rows if row["said"]}
        said = {name: told[name] for name in (plan.COLD, plan.NONE, *plan.SIDE_BY_SIDE) if name in told}
        steps = sorted(set.intersection(*map(set, said.values())), key=int) if said else []
        for step in [*steps[:1], *steps[1:][-1:]]:
            yield f"**{task}, {algorithm.upper()}, step {step}**"
            yield ""
            yield from table(list(_answers({name: each[step] for name, each in said.items()})))
            yield ""


def _answers(said: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, str]]:
    """Yield a line for each task that all of the settings were asked: setting -> what it answered."""
    by_task = {name: {each["asked"]: each for each in episodes} for name, episodes in said.items()}
    for asked in next(iter(by_task.values())):
        if all(asked in episodes for episodes in by_task.values()):
            answers = {name: _quoted(episodes[asked]) for name, episodes in by_task.items()}
            yield {"task": _short(PREAMBLE.sub("", asked))} | answers


def _quoted(episode: Mapping[str, Any]) -> str:
    return f"`{_short(episode['said'].replace('`', chr(39))) or ' '}`{' (right)' if episode['success'] else ''}"


def _short(text: str) -> str:
    """Return the text in one line, cut, without characters that cannot be printed."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return words if len(words) <= CUT else f"{words[:CUT]}..."
