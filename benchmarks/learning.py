"""Thirty steps of tiny-sokoban are judged by validation success before and after: three seeds, three settings.

    python benchmarks/learning.py [--seeds 0,1,2] [--steps 30] [--groups 512] [--jobs 2] [--runs DIR]

Every seed trains a warm start of its own (built once, then kept). Success is the share of solved validation rooms, the
same ones before and after, sampled at temperature 1. Small rooms repeat among them; the standard error is over distinct
rooms. Each run has one thread, ``--jobs`` of them at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uncollapse
from uncollapse.core.compose.config import dump_yaml

SETTINGS = {
    "PPO, GAE": [],
    "GRPO": ["advantage=grpo", "critic=null"],
    "GRPO, top_p(0.9)": ["advantage=grpo", "critic=null", "filter.select=top_p(0.9)"],
}
SLUGS = {"PPO, GAE": "ppo", "GRPO": "grpo", "GRPO, top_p(0.9)": "grpo-top_p"}


def train(name: str, seed: int, options: argparse.Namespace) -> tuple[dict, dict, float]:
    """The metrics of the first and of the last validation of one run, and its wall time in seconds."""
    overrides = [
        *SETTINGS[name],
        f"seed={seed}",
        f"model.build.seed={seed}",
        f"trainer.steps={options.steps}",
        f"validation.groups={options.groups}",
        f"validation.every={options.steps}",
        "trackers=jsonl",
    ]
    directory = options.runs / f"{SLUGS[name]}-{seed}"
    directory.parent.mkdir(parents=True, exist_ok=True)
    file = directory.parent / f"{directory.name}.yaml"
    file.write_text(dump_yaml(uncollapse.compose("tiny-sokoban", overrides)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    start = time.perf_counter()
    command = [sys.executable, "-m", "uncollapse.cli.main", "train", str(file), "--run-dir", str(directory)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{name}, seed {seed}: exit code {result.returncode}\n{result.stderr[-2000:]}")
    seconds = time.perf_counter() - start
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if "validation/success" in line]
    return validations[0], validations[-1], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--groups", type=int, default=512, help="validation rooms")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, help="where the runs are kept (default: a temporary directory)")
    options = parser.parse_args()
    options.runs = options.runs or Path(tempfile.mkdtemp(prefix="learning-"))

    points = [(name, seed) for name in SETTINGS for seed in options.seeds]
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = list(pool.map(lambda point: train(*point, options), points))

    print(f"tiny-sokoban, {options.steps} steps: success on {options.groups} validation rooms (standard error)")
    print(f"{'setting':<18} {'seed':>4} {'before':>14} {'after':>14} {'gain':>6} {'invalid turns':>14} {'seconds':>8}")
    gains: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for (name, seed), (before, after, seconds) in zip(points, runs, strict=True):
        gain = after["validation/success"] - before["validation/success"]
        gains[name].append(gain)
        print(
            f"{name:<18} {seed:>4} {_success(before):>14} {_success(after):>14} {gain:>+6.3f} "
            f"{after['validation/share_of_turns_invalid']:>14.3f} {seconds:>8.0f}"
        )
    for name, values in gains.items():
        print(f"{name:<18} mean gain {statistics.fmean(values):+.3f}, smallest {min(values):+.3f}")


def _success(metrics: dict) -> str:
    return f"{metrics['validation/success']:.3f} ({metrics['validation/success_se']:.3f})"


if __name__ == "__main__":
    main()
