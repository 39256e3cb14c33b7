"""A tiny model learns to use a tool: success and calls of tiny-tools before and after, three seeds, with their time.

    python benchmarks/tiny_tools.py [--seeds 0,1,2] [--steps 30] [--groups 512] [--runs DIR]

Every seed builds a start model of its own, in an empty cache, so that the time of a run holds the cloning too. Before
and after are measured on the same validation questions, which never train, sampled at temperature 1. Runs are made one
after the other, with one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CALLS = ("broken", "unknown", "wrong")


def train(seed: int, options: argparse.Namespace) -> tuple[dict, dict, float, float]:
    """The metrics of the first and of the last validation of one run, its wall time and its CPU time in seconds."""
    directory = options.runs / f"seed-{seed}"
    settings = {
        "seed": seed,
        "model.build.seed": seed,
        "trainer.steps": options.steps,
        "validation.groups": options.groups,
        "validation.every": options.steps,
        "trackers": "jsonl",
    }
    command = [sys.executable, "-m", "uncollapse.cli.main", "train", "tiny-tools", "--run-dir", str(directory)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    cache = tempfile.mkdtemp(prefix="tiny-tools-")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "UNCOLLAPSE_CACHE": cache}
    start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode:
        raise SystemExit(f"seed {seed}: exit code {result.returncode}\n{result.stderr[-2000:]}")
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = [line for line in lines if "validation/success" in line]
    return first, last, wall, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--groups", type=int, default=512, help="validation questions")
    parser.add_argument("--runs", type=Path, help="where the runs are kept (default: a temporary directory)")
    options = parser.parse_args()
    options.runs = options.runs or Path(tempfile.mkdtemp(prefix="tiny-tools-"))

    load = os.getloadavg()[0]
    runs = [train(seed, options) for seed in options.seeds]

    print(f"tiny-tools, {options.steps} steps: {options.groups} validation questions (standard error)")
    print("shares of calls that are broken, name an unknown tool, have wrong arguments; seconds with the cloning")
    print(f"{'seed':>4} {'when':<7} {'success':>14} {'turns':>6} {'broken':>7} {'unknown':>8} {'wrong':>6}", end="")
    print(f" {'invalid turns':>14} {'wall s':>7} {'CPU s':>6}")
    for seed, (before, after, wall, cpu) in zip(options.seeds, runs, strict=True):
        print(_row(seed, "before", before))
        print(f"{_row(seed, 'after', after)} {wall:>7.0f} {cpu:>6.0f}")
    gains = [after["validation/success"] - before["validation/success"] for before, after, *_ in runs]
    print(f"mean gain {statistics.fmean(gains):+.3f}, smallest {min(gains):+.3f}; {os.cpu_count()} cores, ", end="")
    print(f"load average before {load:.1f}, after {os.getloadavg()[0]:.1f}")


def _row(seed: int, when: str, metrics: dict) -> str:
    success = f"{metrics['validation/success']:.3f} ({metrics['validation/success_se']:.3f})"
    broken, unknown, wrong = (metrics.get(f"validation/share_of_calls_{fault}", 0.0) for fault in CALLS)
    invalid = metrics["validation/share_of_turns_invalid"]
    shares = f"{broken:>7.3f} {unknown:>8.3f} {wrong:>6.3f} {invalid:>14.3f}"
    return f"{seed:>4} {when:<7} {success:>14} {metrics['validation/turns']:>6.2f} {shares}"


if __name__ == "__main__":
    main()
