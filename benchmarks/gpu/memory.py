"""Whether the memory plan holds on a GPU: runs with no more than their plan, one by one, then several side by side.

    python benchmarks/gpu/memory.py --runs DIR [--minutes 8] [--per-gpu 6] [--only grpo,ppo] [--out FILE]
    python benchmarks/gpu/memory.py --quick                    # a tiny model on a CPU, to try the script out

Each case trains ``--steps`` steps of SmolLM2 (``smol-arithmetic``, ``smol-sokoban``; GRPO and PPO) in a process of its
own, which may take no more than the least share of the GPU that the plan says is enough (``UNCOLLAPSE_GPU_MEMORY``): a
plan that is too low ends the run. Beside the plan stand the most that torch held in the trainer (allocated, reserved),
and the most that was in use on the GPU beyond what was in use before, looked at every 20 ms. ``of plan`` is that over
the plan: above 1, the plan is too low. ``retries`` counts how often torch had to give cached memory back to stay within
the share.

Then ``uncollapse sweep run ... --per-gpu N`` starts N runs that differ in their seed, at once on one GPU, and a sweep
whose runs cannot fit, which must end with exit code 2 before anything starts. Nothing else should run on the GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common
import torch
import uncollapse
from uncollapse.core.compose.config import dump_yaml
from uncollapse.core.gpu_share import GIB, variables
from uncollapse.plugins.training.memory.fitting import Request

AWAKE = {"name": "vllm", "sleep": False, "kv_cache_gib": 2.0}
PPO = {"advantage": "gae", "critic": {}, "collapse": ["empty_filter", "no_signal"], "kl.coef": 0.001}
PLAIN = {"collapse": ["empty_filter", "no_signal"]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": ("smol-arithmetic", {**PLAIN, "rollout.engine": AWAKE}),
    "forecast": ("smol-arithmetic", {"rollout.engine": AWAKE}),
    "sokoban": ("smol-sokoban", {"rollout.engine": "vllm"}),
    "ppo": ("smol-arithmetic", {**PPO, "rollout.engine": "vllm"}),
}
"""The name of a case -> its experiment, and changes of it: without detectors that use gradients, with them, with an
engine that sleeps and takes a part of the share, and with a critic and a reference."""
QUICK = {
    "model.build": "tiny_qwen2(episodes=4)", "rollout.groups": 4, "rollout.group_size": 2, "rollout.max_context": 1600,
    "rollout.engine": "hf", "trainer.mini_batch": 8, "trainer.micro_batch": 4,
}  # fmt: skip
TIMES_LARGER = 64
"""Runs on one GPU that no GPU of today has room for."""
COLUMNS = {
    "case": "case", "ended": "ended", "plan_gib": "plan", "plan_phase": "in", "share_gib": "share",
    "gpu_gib": "measured", "of_plan": "of plan", "plan_trainer_gib": "trainer's plan", "allocated_gib": "allocated",
    "reserved_gib": "reserved", "retries": "retries", "seconds": "s",
}  # fmt: skip
SIDE = {"runs": "runs at a time", "share_gib": "share", "gpu_gib": "measured", "statuses": "ended", "seconds": "s"}


def experiment(case: str, options: argparse.Namespace) -> Any:
    """The experiment of a case, as this machine can run it."""
    name, changes = CASES[case]
    machine = {
        "model.dtype": common.dtype(), "model.warm_start": None, "trainer.zero_stage": 2 if options.gpu else 0,
        "trackers": ["jsonl"], "validation.every": 0, "trainer.steps": options.steps, "trainer.save_last": False,
    }  # fmt: skip
    layers = {**machine, **changes, **(QUICK if options.quick else {})}
    return uncollapse.compose(uncollapse.compose(name, layers), options.set)


# --- one run, in a process of its own -------------------------------------------------------------------------------


def train(source: Path, result: Path, run: Path) -> None:
    """Train in this process, and write what was measured."""
    composed = uncollapse.compose(source)
    with common.Peak() as peak:
        ended = uncollapse.train(composed, run).status
    found: dict[str, Any] = {"ended": ended}
    if torch.cuda.is_available():
        statistics = torch.cuda.memory_stats()
        found |= {
            "peak_used_gib": peak.gib, "allocated_gib": peak.own_gib,
            "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
            "retries": statistics["num_alloc_retries"], "out_of_memory": statistics["num_ooms"],
        }  # fmt: skip
    result.write_text(json.dumps(found))


def alone(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a case with the least share that its plan says is enough, and return its row."""
    composed = experiment(case, options)
    request = Request(composed)
    share = least_share(request)
    plan = request.plan(share)
    beside = plan.beside
    fullest = max((phase for phase in plan.phases if phase.name != "rollout"), key=lambda phase: phase.total)
    row = {
        "benchmark": "memory", "case": case, "experiment": CASES[case][0], "steps": options.steps,
        "plan_gib": plan.fullest.total / GIB, "plan_phase": plan.fullest.name, "share_gib": share / GIB,
        "plan_trainer_gib": (fullest.total - beside) / GIB,
        "phases": {phase.name: {name: size / GIB for name, size in phase.items.items()} for phase in plan.phases},
    }  # fmt: skip
    before, started = used_gib(), time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        source, result, log = (Path(scratch) / name for name in ("experiment.yaml", "result.json", "log"))
        source.write_text(dump_yaml(composed))
        run = options.runs / f"{case}-{time.time():.0f}"
        command = [sys.executable, __file__, "--train", str(source), str(result), str(run)]
        with log.open("wb") as out:
            code = subprocess.run(
                command, env={**os.environ, **(variables(share) if options.gpu else {})}, stdout=out, stderr=out
            ).returncode
        words = log.read_text(errors="replace").splitlines()
        found = json.loads(result.read_text()) if result.exists() else {"ended": f"exit code {code}"}
    if found["ended"] != "success":
        print("\n".join(words[-30:]), flush=True)
    if "peak_used_gib" in found:
        found["gpu_gib"] = found["peak_used_gib"] - before
        found["of_plan"] = found["gpu_gib"] / row["plan_gib"]
    return {**row, **found, "used_before_gib": before, "seconds": time.perf_counter() - started, **common.setting()}


def least_share(request: Request) -> int:
    """The least memory with which the plan fits, to 16 MiB."""
    low, high = 0, 1 << 14
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if request.holds(middle << 24) else (middle, high)
    return high << 24


# --- several side by side ---------------------------------------------------------------------------------------------


def side_by_side(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run a sweep of as many seeds as run at a time, and one that cannot fit; return a row for each."""
    composed = experiment("forecast", options)
    root = options.runs / f"side-by-side-{time.time():.0f}"
    source, sweep_file = options.runs / "experiment.yaml", options.runs / "side-by-side.yaml"
    source.write_text(dump_yaml(composed))
    # each fold of the forecast holds four copies of what trains
    few_folds = {"collapse.entropy_forecast.folds": 2}
    sweep = {"experiment": str(source), "set": few_folds, "axes": {"seed": list(range(options.per_gpu))}}
    sweep_file.write_text(json.dumps(sweep))  # JSON is YAML
    command = [sys.executable, "-m", "uncollapse.cli.main", "sweep", "run", str(sweep_file), "--output-root", str(root)]
    how = ["--gpus", "0", "--per-gpu", str(options.per_gpu)] if options.gpu else ["--slots", str(options.per_gpu)]
    before, started = used_gib(), time.perf_counter()
    with watched() as seen:
        done = subprocess.run([*command, *how], capture_output=True, text=True)
    seconds = time.perf_counter() - started
    statuses = [json.loads(file.read_text())["status"] for file in sorted(root.rglob("status.json"))]
    if set(statuses) != {"success"}:
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n", flush=True)
    said = [line for line in done.stdout.splitlines() if "at a time on each GPU" in line]
    row = {
        "benchmark": "memory", "case": "side by side", "runs": options.per_gpu, "steps": options.steps,
        "ended_well": done.returncode == 0 and statuses == ["success"] * options.per_gpu, "exit_code": done.returncode,
        "statuses": " ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses))) or "none",
        "share_gib": float(said[0].split(", ")[-1].split()[0]) if said else None,
        "gpu_gib": max(seen, default=0.0) - before if options.gpu else None,
        "used_before_gib": before, "seconds": seconds, **common.setting(),
    }  # fmt: skip
    return [row, refused([*command, "--per-gpu", str(TIMES_LARGER)], root)]


def refused(command: list[str], root: Path) -> dict[str, Any]:
    """The row of a sweep that must not start."""
    files = sorted(root.rglob("*"))
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    return {
        "benchmark": "memory", "case": "refused", "exit_code": done.returncode, "said": done.stderr.strip()[:1000],
        "nothing_written": sorted(root.rglob("*")) == files, "seconds": time.perf_counter() - started,
        **common.setting(),
    }  # fmt: skip


@contextmanager
def watched() -> Iterator[list[float]]:
    """GiB in use on the GPU, looked at about every half second by a program of the driver's."""
    seen: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.4):
            seen.append(used_gib())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def used_gib() -> float:
    """What is in use on the first GPU, by whomever, without a CUDA context of this process; 0 without a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0.0
    query = [program, "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return float(answer) / 1024 if answer.replace(".", "").isdigit() else 0.0


def main() -> None:
    options = arguments()
    options.runs.mkdir(parents=True, exist_ok=True)
    deadline, rows = time.monotonic() + 60 * options.minutes, list[Mapping[str, Any]]()
    for case in options.only:
        if time.monotonic() > deadline:
            print(f"no time for {case}", flush=True)
            continue
        rows.append(alone(case, options))
        common.publish(rows[-1:], options.out)
    sides = [] if time.monotonic() > deadline or not options.per_gpu else side_by_side(options)
    common.publish(sides, options.out)
    print()
    common.table(rows, COLUMNS)
    if sides:
        print()
        common.table(sides[:1], SIDE)
        print(f"all ended well: {sides[0]['ended_well']}; {TIMES_LARGER} at a time: exit code {sides[1]['exit_code']}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs=3, metavar=("YAML", "RESULT", "RUN"), help="one run, in here")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(CASES), help=f"of {','.join(CASES)}")
    parser.add_argument("--steps", type=int, default=3, help="of training (3)")
    parser.add_argument("--per-gpu", type=int, metavar="N", help="runs side by side (6; 0 for none)")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing new begins (8)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change all experiments")
    parser.add_argument("--runs", type=Path, help="where runs are written (default: a temporary directory)")
    parser.add_argument("--out", type=Path, help="file that the rows are appended to")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script out")
    options = parser.parse_args()
    if options.train:
        train(*options.train)
        raise SystemExit(0)
    if unknown := set(options.only) - set(CASES):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(CASES)}")
    options.gpu = torch.cuda.device_count() > 0
    options.per_gpu = (2 if options.quick else 6) if options.per_gpu is None else options.per_gpu
    options.runs = options.runs or Path(tempfile.mkdtemp(prefix="memory-"))
    return options


if __name__ == "__main__":
    main()
