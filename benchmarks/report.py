"""The report of a sweep of 164 runs of 400 steps is timed against `json.loads` of the same lines in one process.

    python benchmarks/report.py [--steps 400] [--keep DIRECTORY]

The runs are synthetic (the grid of the smoke test, some 45 metrics a step, a third of the runs stopped by a detector,
late) and are written through the run directory's own functions. Reading the lines of metrics and parsing them is the
floor: no report can do without it. Ends with 1 if the report takes more than 10 s.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from uncollapse.core.compose.config import compose, to_dict
from uncollapse.core.compose.identity import config_hash
from uncollapse.core.compose.spec import parse_value
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps
from uncollapse.plugins.report.data import SweepData
from uncollapse.plugins.report.following import Target
from uncollapse.plugins.report.sweep_report import read_report
from uncollapse.plugins.report.sweep_status import read_sweep_status

LIMIT = 10.0
RATIOS = ("1.0", "0.8", "0.6", "0.4")
COEFS = ("0.001", "0.003", "0.01", "0.03")
STAGES = (
    "rollout",
    "filter",
    "detectors",
    "score",
    "reference",
    "values",
    "advantage",
    "update_critic",
    "update_actor",
)
OTHERS = (
    *(f"rollout/{name}" for name in ("reward_std", "length", "turns", "truncated", "logprob_gap", "groups", "kept")),
    *(f"actor/{name}" for name in ("loss", "pg_loss", "grad_norm", "clip_fraction", "ppo_kl", "lr", "kl_coef")),
    *(f"critic/{name}" for name in ("loss", "grad_norm", "advantages_mean", "advantages_std", "returns_mean")),
    *(
        f"train/{name}"
        for name in ("optimizer_steps", "rows", "format", "turns", "episodes", "actions", "pass@16", "valid")
    ),
)


def settings() -> Iterator[dict[str, str]]:
    """The points of ``smoke-all``: a union of grids, three estimators of which one has all five groups."""
    for estimator in ("kl", "mse", "low_var_kl"):
        grids = [(ratio, kl, "0", "false") for ratio in RATIOS for kl in COEFS]
        if estimator == "low_var_kl":
            grids += [(ratio, "0", entropy, "false") for ratio in RATIOS for entropy in ("0", *COEFS)]
        grids += [("1.0", kl, entropy, zero) for zero in ("true", "false") for kl in COEFS for entropy in COEFS]
        for ratio, kl, entropy, zero in grids:
            yield {
                "kl.estimator": estimator,
                "filter.select": f"top_p({ratio})",
                "kl.coef": kl,
                "entropy_coeff": entropy,
                "zero_task_advantage": zero,
            }


def write_sweep(root: Path, steps: int) -> list[Path]:
    """Write ``sweep.yaml`` and every run; the runs' metrics files."""
    points, files = [], []
    for number, values in enumerate(settings()):
        label = "-".join(text.replace("(", "").replace(")", "") for text in values.values())
        experiment = to_dict(
            compose(
                "tiny-sokoban", {"trainer.steps": steps, **{key: parse_value(text) for key, text in values.items()}}
            )
        )
        digest = config_hash(experiment)
        run = RunDirectory.create(root / "runs" / label, experiment, {})
        points.append({"label": label, "path": f"runs/{label}", "hash": digest, "values": values})
        files.append(run.metrics_file)
        write_run(run, values, steps, digest, random.Random(number))
    axes = {axis: list(dict.fromkeys(point["values"][axis] for point in points)) for axis in points[0]["values"]}
    experiment = to_dict(compose("tiny-sokoban", {"trainer.steps": steps}))
    record = {"name": "smoke-all", "experiment": experiment, "axes": axes, "points": points}
    (root / "sweep.yaml").write_text(dumps(record), encoding="utf-8")
    return files


def write_run(run: RunDirectory, values: dict[str, str], steps: int, digest: str, random: random.Random) -> None:
    """Success that rises and saturates; strong entropy bonuses and weak filters tend to collapse."""
    coef, entropy, ratio = (float(values[key].strip("top_()")) for key in ("kl.coef", "entropy_coeff", "filter.select"))
    ceiling = 0.75 - 4 * coef - 6 * entropy - 0.15 * ratio + random.gauss(0, 0.04)
    collapses = values["zero_task_advantage"] == "true" or random.random() < 12 * entropy
    end = random.randrange(9 * steps // 10, steps) if collapses else steps
    total, metrics = 0.0, {}
    for step in range(end + 1):
        progress = 1 - math.exp(-step / (steps / 4))
        decay = max(0.0, 1 - step / end) if collapses else 1.0
        success = min(1.0, max(0.0, 0.1 + (ceiling - 0.1) * progress * decay + random.gauss(0, 0.03)))
        seconds = {stage: random.uniform(0.1, 1.0) for stage in STAGES}
        metrics = {name: random.gauss(1, 0.1) for name in OTHERS} | {
            "train/success": success,
            "train/reward": 10 * success + random.gauss(0, 0.5),
            "rollout/in_group_reward_std": 4 * decay * math.exp(-progress) + random.uniform(0, 0.3),
            "rollout/filter_kept_ratio": min(1.0, ratio * random.uniform(0.8, 1.1)),
            "actor/entropy": 0.2 + (1.5 - progress) * (1 + 40 * entropy) * decay + random.uniform(0, 0.1),
        }
        if coef:
            metrics["actor/kl"] = progress * 0.02 / math.sqrt(coef) * random.uniform(0.8, 1.2)
        if step % 10 == 0 or step == end:
            error = math.sqrt(success * (1 - success) / 512)
            metrics |= {"validation/success": success, "validation/success_se": error, "validation/tasks": 512.0}
            seconds["validation"] = random.uniform(5, 10)
        total += sum(seconds.values())
        metrics |= {f"timing_s/{stage}": value for stage, value in seconds.items()}
        metrics |= {"timing_s/step": sum(seconds.values()), "timing_s/total": total}
        run.append_metrics(step, metrics)
    turns = [{"user": "#####\n#_O_#\n#_X√#\n#####\n" * 4, "response": "<think>Push it.</think><answer>Up</answer>"}] * 5
    episode = {"group": 1, "member": 0, "reward": 9.0, "success": True, "stop": "success", "turns": turns}
    run.write_rollouts(end, [{**episode, "system": "You are playing Sokoban."}] * 4)
    timings = {"train": 0.9 * total, "eval": 0.1 * total, "collapse": 3.0, "total": total, "wall": total + 60}
    end_of_run: dict[str, Any] = {"step": end, "metrics": metrics, "timings": timings, "hash": digest, "gpu": "1xH200"}
    if collapses:
        detector = random.choice(("reward_variance_collapse", "low_validation_success"))
        verdict = {"detector": detector, "step": end, "reason": "it fell below a tenth of its start", "evidence": {}}
        run.set_status(f"stopped:{detector}", verdict=verdict, **end_of_run)
    else:
        run.set_status("success", **end_of_run)


@attrs.define
class Clock:
    """Seconds by what they were spent on, printed as they are known."""

    floor: float = 0.0

    def line(self, what: str, seconds: float) -> None:
        print(f"{what:<46} {seconds:>8.2f} s {seconds / self.floor if self.floor else 1.0:>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--keep", type=Path, help="Write the sweep here and keep it (an existing one is used again).")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.keep or Path(temporary)
        if (root / "sweep.yaml").exists():
            files = sorted(root.glob("runs/*/metrics.jsonl"))
        else:
            files = write_sweep(root, options.steps)
        measure(root, files)


def measure(root: Path, files: list[Path]) -> None:
    start = time.perf_counter()
    lines = values = 0
    for file in files:
        for line in file.read_bytes().splitlines():
            values += len(json.loads(line))
            lines += 1
    clock = Clock(time.perf_counter() - start)
    size = sum(file.stat().st_size for file in files) / 2**20
    print(f"{len(files)} runs, {lines} lines of {values / lines:.0f} values, {size:.0f} MiB")
    print(f"{'':<46} {'time':>10} {'ratio':>8}")
    clock.line("json.loads of every line", clock.floor)

    start = time.perf_counter()
    read_sweep_status(root)
    clock.line("sweep status: read", time.perf_counter() - start)

    start = time.perf_counter()
    SweepData.read(root)
    clock.line("report: read alone", time.perf_counter() - start)

    start = time.perf_counter()
    sweep_report = read_report(root)
    sweep_report.to_dict()
    tables = time.perf_counter() - start
    page = sweep_report.write()
    seconds = time.perf_counter() - start
    clock.line("report: read and compare", tables)
    clock.line("report: plots, page and CSV", seconds - tables)
    clock.line("report: all of it", seconds)

    start = time.perf_counter()
    read_report(root, Target("validation/success"))
    clock.line("report: read, compare and correlate", time.perf_counter() - start)
    pictures = len(list(page.parent.glob("*.png")))
    print(f"page: {page.stat().st_size / 2**20:.1f} MiB with {pictures} pictures; limit: {LIMIT:.0f} s")
    if seconds > LIMIT:
        raise SystemExit("over the limit")


if __name__ == "__main__":
    main()
