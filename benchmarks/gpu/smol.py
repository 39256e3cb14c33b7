"""The experiments ``smol-*`` on one GPU: how good is the start, how long is a step, how much memory does a run take?

    python benchmarks/gpu/smol.py --minutes 8 --runs DIR [--only arithmetic,sokoban] [--steps 40] [--side-by-side 4]
    python benchmarks/gpu/smol.py --minutes 8 --runs DIR          # the same again goes on where the time was up
    python benchmarks/gpu/smol.py --minutes 8 --runs DIR --grid   # measures all settings of the warm start, trains none
    python benchmarks/gpu/smol.py --quick                         # a tiny model on a CPU, to try the script out

For each experiment, settings of the warm start are measured one after the other, the experiment's own first: SmolLM2 is
warmed up, and plays ``--episodes`` episodes of unseen tasks at temperature 1, with transformers. From the first setting
that reaches the aim (95 % of the turns valid, 20 to 60 % success) ``--steps`` steps of GRPO are trained, with vLLM on a
GPU. Where none of the first three does, training starts from the nearest of them, and the others follow. Standard
errors are over distinct tasks.

Every measurement is a process of its own (``smol_row.py``) and a row of DIR/smol.jsonl, with the hash of its whole
experiment. A row that is there is never measured again; ``--rows FILE`` brings those of another machine. What the end
of the time interrupts leaves no row, and what is not expected to end in time does not begin. A row that failed is
printed, and tried again by the next call. Experiments are measured side by side on one GPU (``--side-by-side``), so
that seconds and the memory of the GPU (``GPU``) are those of several; each row says how many.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import common
import torch
import uncollapse
from uncollapse.core.compose.config import dump_yaml
from uncollapse.core.compose.identity import config_hash
from uncollapse.core.errors import UncollapseError

BATCH = 16
VALID, LEAST, MOST = 0.95, 0.2, 0.6
"""The aim: the least share of valid turns, and the range of success."""
TRIES = 3
"""Settings that are measured before training starts from the nearest one."""
EXPECTED_S = {"start": 60.0, "train": 150.0}
"""Seconds of a row, as long as none of the same experiment is there."""
COLUMNS = {
    "experiment": "experiment", "settings": "settings", "valid": "valid", "valid_se": "±", "success": "success",
    "success_se": "±", "loss": "last loss", "warm_s": "warm-up s", "played_s": "played s", "seconds": "s in all",
}  # fmt: skip
TRAINED = {
    "experiment": "experiment", "settings": "settings", "steps": "steps", "success_before": "before",
    "success_after": "after", "success_after_se": "±", "entropy_first": "entropy", "entropy_last": "last",
    "step_s": "step s", "rollout_s": "rollout", "update_s": "update", "forecast_s": "forecast", "start_s": "start s",
    "for_200_s": "s for 200", "trainer_gib": "GiB", "gpu_gib": "GPU", "host_gib": "host",
}  # fmt: skip


def warm(steps: int, **more: float) -> dict[str, Any]:
    """Changes of a warm start that shows every demonstration once."""
    changes = {"steps": steps, "demonstrations": BATCH * steps, **more}
    return {f"model.warm_start.{key}": value for key, value in changes.items()}


SUMS, GCD = "environment.settings.chain_sum.max_digits", "environment.settings.gcd.max_value"
GRID: dict[str, list[dict[str, Any]]] = {
    "arithmetic": [{}, warm(30), warm(120), warm(60, noise=0.4), warm(120, lr=1e-4)],
    "countdown": [
        {}, warm(240), warm(60), warm(240, lr=1e-4), warm(120, noise=0.4), {"environment.max_numbers": 2},
        {"environment.min_numbers": 3, **warm(240, lr=1e-4)},
    ],
    "sokoban": [
        {}, warm(480), warm(240, lr=1e-4), warm(120), {"environment.max_solution": 5},
        {"environment.max_solution": 5, **warm(480, lr=1e-4)}, {"environment.view": "coord"},
    ],
    "reasoning": [
        {}, warm(240), warm(60), warm(240, lr=1e-4), warm(120, noise=0.4), {SUMS: 1, GCD: 12}, {SUMS: 3, GCD: 100},
    ],
}  # fmt: skip
"""Settings that are measured, in this order; ``{}`` is the experiment as it is."""
QUICK = {
    "model.build": "tiny_qwen2(episodes=4)", "model.warm_start.tested": 2, "model.warm_start.batch": 2,
    "rollout.groups": 4, "rollout.group_size": 2, "rollout.max_context": 1600, "trainer.mini_batch": 8,
    "trainer.micro_batch": 4, **warm(2),
}  # fmt: skip


@attrs.frozen
class Point:
    """An experiment to measure."""

    name: str
    settings: dict[str, Any]
    """Changes of the named experiment."""
    start: Any
    """Experiment whose start model is measured."""
    train: Any
    """Experiment that trains from it."""


def points(name: str, options: argparse.Namespace) -> list[Point]:
    """Compose all experiments of a name; none where one cannot be, which is said."""
    gpu = torch.cuda.is_available()
    machine = {
        "model.dtype": common.dtype(), "trainer.zero_stage": 2 if gpu else 0, "trackers": ["jsonl"],
        "validation.groups": options.episodes, "validation.group_size": 1, "trainer.steps": options.steps,
        "trainer.save_last": False,
    }  # fmt: skip
    engine = {"name": "vllm", "sleep": False, "kv_cache_gib": 2.0, "gpu_memory_utilization": 0.1} if gpu else "hf"
    found = []
    try:
        for settings in GRID[name][: 2 if options.quick else None]:
            layers = {**machine, **settings, **(QUICK if options.quick else {})}
            start = uncollapse.compose(uncollapse.compose(f"smol-{name}", layers), options.set)
            found.append(Point(name, settings, start, uncollapse.compose(start, {"rollout.engine": engine})))
    except UncollapseError as error:
        print(error, flush=True)
        return []
    return found


class Plan:
    """Rows that are there, and those that are still to be measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.deadline = options, time.monotonic() + 60 * options.minutes
        self.file = options.runs / "smol.jsonl"
        files = [file for file in (self.file, *options.rows) if file.exists()]
        self.rows: list[dict[str, Any]] = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        self._lock = threading.Lock()

    def work(self, grid: list[Point]) -> None:
        """Measure what is missing of an experiment, until the time is up."""
        starts: list[tuple[float, Point]] = []
        for number, point in enumerate(grid, 1):
            start = self.row("start", point)
            if start is not None:
                starts.append((distance(start), point))
            nearest = min(starts, key=lambda pair: pair[0], default=None)
            if nearest is None or self.options.grid:
                continue
            if nearest[0] == 0 or number == min(TRIES, len(grid)):
                self.row("train", nearest[1])
            if nearest[0] == 0:
                break

    def row(self, kind: str, point: Point) -> dict[str, Any] | None:
        """The row of a point, measured now where it is missing; ``None`` where there is no time, or where it fails."""
        experiment = point.start if kind == "start" else point.train
        key = {"experiment": point.name, "kind": kind, "hash": config_hash(experiment)}
        if found := next((row for row in self.rows if key.items() <= row.items()), None):
            return found
        what = f"{point.name}, {kind}, {told(point.settings)}"
        left = self.deadline - time.monotonic()
        if left < self._expected(kind, point):
            print(f"no time for {what}", flush=True)
            return None
        started = time.monotonic()
        found = measure(kind, experiment, self.options.runs / f"{point.name}-{time.time():.0f}", left, what)
        if found is None:
            return None
        about = {"settings": point.settings, "set": self.options.set, "side_by_side": self.options.side_by_side}
        steps = experiment.trainer.steps if kind == "train" else experiment.model.warm_start.steps
        row = {"benchmark": "smol", **key, **about, "steps": steps, "episodes": self.options.episodes, **found,
               "seconds": time.monotonic() - started, **common.setting()}  # fmt: skip
        with self._lock:
            self.rows.append(row)
            common.publish([row], self.file)
        return row

    def _expected(self, kind: str, point: Point) -> float:
        """Seconds that a row will take, by those of the same experiment and kind on such a machine."""
        same = {"experiment": point.name, "kind": kind, "gpu": common.setting()["gpu"]}
        alike = [row for row in self.rows if same.items() <= row.items()]
        if not alike:
            return 0.0 if self.options.quick else EXPECTED_S[kind]
        steps = point.train.trainer.steps if kind == "train" else point.start.model.warm_start.steps
        return max(float(row["seconds"]) * max(1.0, steps / row["steps"]) for row in alike)


def distance(row: Mapping[str, Any]) -> float:
    """How far a start is from the aim; 0 where it is reached."""
    return max(0.0, VALID - row["valid"]) + max(0.0, LEAST - row["success"]) + max(0.0, row["success"] - MOST)


def told(settings: Mapping[str, Any]) -> str:
    """Settings in few words, without those that follow from others."""
    words = [f"{key.rpartition('.')[2]}={value}" for key, value in settings.items() if "demonstrations" not in key]
    return " ".join(words) or "as it is"


def measure(kind: str, experiment: Any, run: Path, seconds: float, what: str) -> dict[str, Any] | None:
    """Measure in a process group of its own, which ends with the time; ``None`` where it fails, or has none left."""
    with tempfile.TemporaryDirectory() as scratch:
        source, result, log = (Path(scratch) / name for name in ("experiment.yaml", "result.json", "log"))
        source.write_text(dump_yaml(experiment))
        command = [sys.executable, str(Path(__file__).with_name("smol_row.py")), kind, str(source), str(result)]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, str(run)], stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            code = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            print(f"out of time: {what}", flush=True)
            return None
        finally:
            end(process)
        if code == 0:
            found: dict[str, Any] = json.loads(result.read_text())
            return found
        print("\n".join(log.read_text(errors="replace").splitlines()[-25:]), flush=True)
        print(f"failed with exit code {code}: {what}", flush=True)
        return None


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, and all that it left in its group."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(10.0)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def report(plan: Plan) -> None:
    rows = [{**row, "settings": told(row["settings"])} for row in plan.rows]
    for kind, columns in (("start", COLUMNS), ("train", TRAINED)):
        print()
        common.table([row for row in rows if row["kind"] == kind], columns)
    reached = [
        f"{row['experiment']} ({row['settings']})" for row in rows if row["kind"] == "start" and not distance(row)
    ]
    print(f"\nin the aim: {', '.join(reached) or 'none'}\nrows: {plan.file}")


def main() -> None:
    options = arguments()
    options.runs.mkdir(parents=True, exist_ok=True)
    plan = Plan(options)
    grids = [points(name, options) for name in options.only]
    with ThreadPoolExecutor(options.side_by_side) as threads:
        list(threads.map(plan.work, grids))
    report(plan)


def arguments() -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="after which everything ends")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(GRID), help=f"of {','.join(GRID)}")
    parser.add_argument("--episodes", type=int, help="of unseen tasks, for each setting (256)")
    parser.add_argument("--steps", type=int, help="of training (40)")
    parser.add_argument("--side-by-side", type=int, default=4 if gpu else 1, metavar="N", help="experiments at a time")
    parser.add_argument("--grid", action="store_true", help="measure every setting of the warm start, and train none")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change all experiments")
    parser.add_argument("--runs", type=Path, help="where rows and runs are written (default: a temporary directory)")
    parser.add_argument("--rows", type=Path, action="append", default=[], help="rows of earlier calls, read only")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script out")
    options = parser.parse_args()
    if unknown := set(options.only) - set(GRID):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(GRID)}")
    options.episodes = options.episodes or (8 if options.quick else 256)
    options.steps = options.steps or (2 if options.quick else 40)
    options.runs = options.runs or Path(tempfile.mkdtemp(prefix="smol-"))
    return options


if __name__ == "__main__":
    main()
