"""Thin rows are what the repository keeps of the study: the courses that the page needs, in ``results/*.jsonl``.

A thin row has every value of a few metrics (:data:`COURSES`), and of every other metric the mean over the steps from
one validation up to the next one. These are the means that ``sweep report --correlate`` takes, so that its correlations
follow from thin rows as well as from whole ones. Courses have four digits, means three.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from uncollapse.core.yaml import loads
from uncollapse.plugins.report.data import RunData
from uncollapse.plugins.report.following import Target, follow
from uncollapse.plugins.report.metrics import INFORMATION, SUCCESS, TIMED
from uncollapse.plugins.report.run_status import RunStatus

ENTROPY, INVALID = "actor/entropy", "train/share_of_turns_invalid"
FORECAST = ("predicted", "predicted_se", "realised", "realised_se", "z", "for_step", "status")
COURSES = (
    SUCCESS, f"{SUCCESS}_se", INFORMATION, f"{INFORMATION}_se", ENTROPY, INVALID, "train/success",
    "rollout/in_group_reward_std", *(f"forecast/{name}" for name in FORECAST),
)  # fmt: skip
"""Metrics of which every value is kept."""
DROPPED = re.compile(
    r"timing_s/|rollout/chosen_|forecast/|actor/lr$|mismatch/(?!abs)|.*(@\d+|_ema|_std_seq|chance_level)"
)
"""Metrics that are not kept, or not in this form: copies, constants, and parts of others."""
TOLD = 240
"""Characters of a response that are kept."""
Record = Mapping[str, Any]


def thin(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a whole row (``rows.py``)."""
    records = [json.loads(line) for line in row["files"]["metrics.jsonl"].splitlines()]
    status, manifest = (json.loads(row["files"][name]) for name in ("status.json", "manifest.json"))
    about = {key: row[key] for key in ("label", "hash", "values", "side_by_side", "gpus", "quick")}
    verdicts = [{key: each.get(key) for key in ("detector", "step", "reason")} for each in status.get("verdicts", [])]
    return {
        **about,
        "seconds": round(row["seconds"], 1),
        "date": status["started"][:10],
        "status": status["status"],
        "gpu": status.get("gpu", ""),
        "versions": {key: manifest["versions"].get(key) for key in ("python", "torch", "transformers", "uncollapse")},
        "steps": max(int(record["step"]) for record in records),
        "verdicts": verdicts,
        "courses": {name: course for name in COURSES if (course := _course(records, name))},
        "config": loads(row["files"]["config.yaml"]),
        "timings": _timings(records),
        "windows": _windows(records),
        "said": _said(row) if row["values"].get("seed") == "0" else {},
    }


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _short(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


def _course(records: Sequence[Record], name: str) -> dict[str, Any]:
    """Return every value of a metric: from which step on, if it is logged at every one, else at which steps."""
    logged = [(int(record["step"]), _short(record[name])) for record in records if _finite(record.get(name))]
    if not logged:
        return {}
    steps, values = zip(*logged, strict=True)
    if list(steps) == list(range(steps[0], steps[0] + len(steps))):
        return {"from": steps[0], "values": list(values)}
    return {"at": list(steps), "values": list(values)}


def _timings(records: Sequence[Record]) -> dict[str, float]:
    """Return the mean seconds of a training step by what they were spent on."""
    timed = [record for record in records if record["step"] > 0 and _finite(record.get("timing_s/step"))]
    sums = {name: sum(record.get(f"timing_s/{name}") or 0.0 for record in timed) for name in TIMED}
    return {name: _short(total / len(timed)) for name, total in sums.items() if total}


def _windows(records: Sequence[Record]) -> dict[str, Any]:
    """Return the means of the other metrics over the steps from each validation up to the next one."""
    starts = [int(record["step"]) for record in records if _finite(record.get(SUCCESS))]
    names = sorted({name for record in records for name, value in record.items() if _finite(value)} - {"step"})
    kept = [name for name in names if name not in (SUCCESS, f"{SUCCESS}_se") and not DROPPED.match(name)]
    spans = list(zip(starts, [*starts[1:], math.inf], strict=True))
    means = {}
    for name in kept:
        values = [
            [record[name] for record in records if start <= record["step"] < end and _finite(record.get(name))]
            for start, end in spans
        ]
        means[name] = [_short(fmean(each), 3) if each else None for each in values]
    return {"from": starts, "means": means}


def _said(row: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the first turns of three episodes, of the first and of the last step that was written down."""
    said = {}
    for name, text in row["files"].items():
        if name.startswith("rollouts/"):
            episodes = [json.loads(line) for line in text.splitlines()]
            first = {episode["group"]: episode for episode in reversed(episodes) if episode.get("turns")}
            said[name.removeprefix("rollouts/step_").removesuffix(".jsonl")] = [
                {"asked": each["turns"][0]["user"][:TOLD], "said": each["turns"][0]["response"][:TOLD],
                 "success": each["success"]}
                for each in list(first.values())[-3:][::-1]
            ]  # fmt: skip
    return said


# --- reading ----------------------------------------------------------------------------------------------------------


def write(rows: Iterable[Mapping[str, Any]], file: Path) -> None:
    """Write thin rows to a file, one a line; of the configurations all but the first as changes of the first."""
    rows = list(rows)
    base = rows[0]["config"] if rows else {}
    lines = [json.dumps({"base": base})]
    lines += [json.dumps({**row, "config": _changes(base, row["config"])}, ensure_ascii=False) for row in rows]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _changes(base: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of ``config`` that ``base`` does not have, by section or ``section.key``."""
    changed: dict[str, Any] = {}
    for section, value in config.items():
        other = base.get(section)
        if isinstance(value, dict) and isinstance(other, dict) and value.keys() == other.keys():
            changed |= {f"{section}.{key}": each for key, each in value.items() if each != other[key]}
        elif value != other or section not in base:
            changed[section] = value
    return changed


def _changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of which these are the changes."""
    config = {section: dict(value) if isinstance(value, dict) else value for section, value in base.items()}
    for name, value in changes.items():
        section, _, key = name.partition(".")
        if key:
            config[section][key] = value
        else:
            config[section] = value
    return config


def read(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the thin rows of a directory, the oldest file first."""
    for file in sorted(directory.glob("*.jsonl")):
        # not splitlines: a response may have other line breaks in it
        first, *lines = file.read_text(encoding="utf-8").split("\n")
        base = json.loads(first)["base"]
        for row in map(json.loads, filter(None, lines)):
            yield row | {"config": _changed(base, row["config"])}


def series(row: Mapping[str, Any], metric: str) -> list[tuple[int, float]]:
    """Return steps and values of a metric of :data:`COURSES`."""
    course = row["courses"].get(metric, {"at": [], "values": []})
    steps = course["at"] if "at" in course else range(course["from"], course["from"] + len(course["values"]))
    return list(zip(steps, course["values"], strict=True))


def run_data(row: Mapping[str, Any]) -> RunData:
    """Return a thin row as the reports of the project read a run."""
    logged = {name: series(row, name) for name in row["courses"]}
    # one value for all steps, which has the mean of them all
    logged |= {f"timing_s/{name}": [(1, seconds)] for name, seconds in row["timings"].items()}
    windows, success = row["windows"], dict(series(row, SUCCESS))
    means = {name: values for name, values in windows["means"].items() if name != SUCCESS}
    records = [
        {"step": step, SUCCESS: success.get(step)} | {name: values[at] for name, values in means.items()}
        for at, step in enumerate(windows["from"])
    ]
    return RunData(
        label=row["label"],
        path=Path(row["label"]),
        point=row["values"],
        run_status=RunStatus(row["status"], record={"verdicts": row["verdicts"]}),
        logged=logged,
        steps=row["steps"],
        title=row["label"],
        course=follow(records, Target(SUCCESS)),
    )
