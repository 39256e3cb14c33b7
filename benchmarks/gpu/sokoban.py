"""A 50M-parameter policy learns Sokoban with and without the filter: ``tiny-sokoban``, grown, on GPUs with vLLM.

    python benchmarks/gpu/sokoban.py [--gpus 0,1,2,3] [--steps 200] [--runs DIR] [--quick]
    python benchmarks/gpu/sokoban.py --gpus 0 --side-by-side 4      # all four share one GPU
    python benchmarks/gpu/sokoban.py --one                          # one run on one GPU: seed 0, no filter
    python benchmarks/gpu/sokoban.py --calibrate 'steps=1000;lr=0.001;noise=0.8'     # how good is the warm start?

A Qwen2 of hidden size 512 and 21 layers clones a noisy solver on the first GPU, once. Then ``uncollapse sweep run
custom`` trains it with {no filter, ``top_p(0.9)`` of the reward variance, linear} x {seed 0, 1}, one run a GPU at a
time: 8 groups of 16 episodes a step, GRPO (or ``--algorithm ppo``), bf16 with fp32 master weights, and a vLLM engine on
the same GPU, which has room for both and does not sleep. Success is the share of solved validation rooms, none of which
is ever trained on, sampled at temperature 1 as in training; the standard error is over distinct rooms. The seeds share
the warm start.

``--minutes`` bounds all of it: at their end the sweep is interrupted, and what has been measured is reported. DIR gets
``curves.csv`` and ``result.jsonl`` beside the sweep and its report (``report/``, with a PNG per metric).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

import common
import torch

FILTERS = "nofilter,top_p(0.9)"
CURVES = (
    "validation/success", "validation/success_se", "validation/share_of_turns_invalid", "train/success", "train/reward",
    "actor/entropy", "actor/grad_norm", "rollout/filter_kept_ratio", "mismatch/abs",
    "timing_s/sync", "timing_s/rollout", "timing_s/score", "timing_s/update_actor", "timing_s/step",
)  # fmt: skip
COLUMNS = {
    "run": "run", "status": "status", "steps": "steps", "before": "success before", "after": "after", "gain": "gain",
    "train": "train, last 10", "step_s": "s/step", "mismatch/abs": "mismatch", "total_s": "s in all",
}  # fmt: skip


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """What makes ``tiny-sokoban`` the experiment of this benchmark."""
    gpu = torch.cuda.is_available()
    size = {"hidden": 128, "layers": 1} if options.quick else {"hidden": 512, "layers": 21, "initializer": 0.03}
    cloned = {"steps": options.clone_steps, "batch": 8 if options.quick else 32, "lr": options.clone_lr}
    engine = {"name": "vllm", "sleep": False, "max_num_seqs": 512, "kv_cache_gib": 4.0 if gpu else 0.25}
    ppo = {"advantage": "gae", "critic": {"lr": 10 * options.lr}}
    return {
        "model": {
            "build": {
                "name": "cloned_qwen2", **size, **cloned, "noise": options.noise, "device": "cuda" if gpu else "cpu",
            },
            "dtype": common.dtype(),
        },
        **(ppo if options.algorithm == "ppo" else {"advantage": "grpo", "critic": None}),
        "rollout": {
            "engine": {**engine, "enforce_eager": options.quick},
            **({"groups": 2, "group_size": 4} if options.quick else {}),
        },
        "collapse": [],
        "validation": {"groups": 16 if options.quick else 512, "every": options.every},
        "trainer": {
            "steps": options.steps, "lr": options.lr, "mini_batch": 8 if options.quick else 32,
            "micro_batch": 8 if options.quick else 32, "score_batch": 128, "zero_stage": 2 if gpu else 0,
            "save_last": False, "log_rollouts_every": 50,
        },
        "trackers": ["jsonl"],
    }  # fmt: skip


# --- the warm start ---------------------------------------------------------------------------------------------------


def prepare(file: Path) -> None:
    """Build the start model of an experiment, in this process."""
    import uncollapse
    from uncollapse.plugins.training.networks.prepare import prepare_model

    torch.set_float32_matmul_precision("high")
    started = time.perf_counter()
    path = Path(prepare_model(uncollapse.compose(file)))
    size = (path / "model.safetensors").stat().st_size / 4
    print(f"warm start: {size:,.0f} parameters, {time.perf_counter() - started:.1f} s, {path}", flush=True)


def calibrate(options: argparse.Namespace) -> None:
    """Success of warm starts: for each set of changes of the builder, sampled and greedy."""
    import attrs
    import uncollapse
    from uncollapse.plugins.training.assemble import assemble
    from uncollapse.plugins.training.networks.prepare import prepare_model
    from uncollapse.plugins.training.processes.ranks import start_ranks
    from uncollapse.plugins.training.step.metrics import validation_metrics
    from uncollapse.plugins.training.step.sampling import Sampler

    torch.set_float32_matmul_precision("high")
    changed = {**overrides(options), "rollout.engine": "hf"}
    rows = []
    for text in options.calibrate.split(";"):
        own = [f"model.build.{word}" for word in text.split()]
        experiment = uncollapse.compose(uncollapse.compose("tiny-sokoban", changed), own)
        started = time.perf_counter()
        prepare_model(experiment)
        row = {
            "benchmark": "sokoban-start",
            "start": text.strip() or "as it is",
            "clone_s": time.perf_counter() - started,
        }
        parts = assemble(experiment, start_ranks(), training=False)
        for name, temperature in (("sampled", 1.0), ("greedy", 0.0)):
            validation = attrs.evolve(experiment.validation, temperature=temperature)
            changed_experiment = attrs.evolve(experiment, validation=validation)
            sampler = Sampler(changed_experiment, parts.sampler.engine, parts.sampler.template, parts.sampler.ranks)
            metrics = validation_metrics(sampler.validate(parts.validation_environment))
            row |= {name: metrics["validation/success"], f"{name}_se": metrics["validation/success_se"]}
        row |= {"invalid": metrics["validation/share_of_turns_invalid"], **common.setting()}
        rows.append(row)
    names = ("start", "clone_s", "sampled", "sampled_se", "greedy", "greedy_se", "invalid")
    common.table(rows, {name: name for name in names})
    common.publish(rows, options.runs / "result.jsonl")


# --- the sweep --------------------------------------------------------------------------------------------------------


def sweep(options: argparse.Namespace, deadline: float) -> int:
    """Clone, then train every point; the exit code of the sweep."""
    import uncollapse
    from uncollapse.core.compose.config import dump_yaml

    file = options.runs / "sokoban-50m.yaml"
    file.write_text(dump_yaml(uncollapse.compose("tiny-sokoban", overrides(options))))
    first = {"CUDA_VISIBLE_DEVICES": options.gpus.split(",")[0]} if options.gpus else {}
    subprocess.run([sys.executable, __file__, "--prepare", str(file)], check=True, env={**os.environ, **first})
    filters, seeds = ("nofilter", "0") if options.one else (FILTERS, "0" if options.quick else "0,1")
    command = [sys.executable, "-m", "uncollapse.cli.main", "sweep", "run", "custom", "-e", str(file), "--axis"]
    command += [f"filter.select={filters}", "--seeds", seeds, "--output-root", str(options.runs)]
    command += ["--gpus", options.gpus] if options.gpus else []
    command += ["--slots", str(options.side_by_side)] if options.side_by_side else []
    process = subprocess.Popen(command)
    try:
        return process.wait(max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        print("out of time: the sweep is interrupted", flush=True)
        process.send_signal(signal.SIGINT)
        code = process.wait()
        subprocess.run([*command[:4], "report", str(options.runs)], check=False)
        return code


def read(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per run that was started; writes ``curves.csv``."""
    from uncollapse.core.yaml import loads

    rows = []
    with (options.runs / "curves.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["run", "filter", "seed", "step", *CURVES])
        for point in loads((options.runs / "sweep.yaml").read_text())["points"]:
            directory = options.runs / point["path"]
            metrics = directory / "metrics.jsonl"
            lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
            status = json.loads((directory / "status.json").read_text()) if lines else {}
            values = {key: str(value) for key, value in point["values"].items()}
            chosen, seed = values.get("filter.select", "nofilter"), values.get("seed", "0")
            for line in lines:
                writer.writerow([point["label"], chosen, seed, line["step"], *(line.get(name) for name in CURVES)])
            known = [line for line in lines if "validation/success" in line]
            trained = [line for line in lines if "train/success" in line]
            if len(known) > 1 and trained:
                rows.append(_row(point["label"], chosen, seed, status, known, trained))
    return rows


def _row(
    label: str,
    chosen: str,
    seed: str,
    status: dict[str, Any],
    known: list[dict[str, Any]],
    trained: list[dict[str, Any]],
) -> dict[str, Any]:
    before, after = known[0], known[-1]
    middle = {
        name: median(line[name] for line in trained if name in line)
        for name in ("timing_s/step", "timing_s/sync", "timing_s/rollout", "timing_s/score", "timing_s/update_actor",
                     "mismatch/abs", "rollout/filter_kept_ratio")
        if any(name in line for line in trained)
    }  # fmt: skip
    success = {name: (line["validation/success"], line["validation/success_se"]) for name, line in
               (("before", before), ("after", after))}  # fmt: skip
    return {
        "benchmark": "sokoban", "run": label, "filter": chosen, "seed": seed, "status": status.get("status"),
        "steps": trained[-1]["step"], "last_validation": after["step"],
        **{name: f"{value:.3f} ± {error:.3f}" for name, (value, error) in success.items()},
        **{f"success_{name}": value for name, (value, _) in success.items()},
        **{f"success_{name}_se": error for name, (_, error) in success.items()},
        "gain": after["validation/success"] - before["validation/success"],
        "train": fmean(line["train/success"] for line in trained[-10:]), "step_s": middle.get("timing_s/step"),
        "total_s": trained[-1].get("timing_s/total"), **middle, **common.setting(),
    }  # fmt: skip


def main() -> None:
    started = time.monotonic()
    options = arguments()
    if options.prepare:
        prepare(options.prepare)
        return
    options.runs.mkdir(parents=True, exist_ok=True)
    if options.calibrate is not None:
        calibrate(options)
        return
    code = sweep(options, started + 60 * options.minutes)
    rows = read(options)
    print(f"\ntiny-sokoban, grown; {options.algorithm}; {time.monotonic() - started:.0f} s in all; {options.runs}")
    common.table(rows, COLUMNS)
    for chosen in dict.fromkeys(row["filter"] for row in rows):
        after = [row["success_after"] for row in rows if row["filter"] == chosen]
        spread = math.sqrt(sum(row["success_after_se"] ** 2 for row in rows if row["filter"] == chosen)) / len(after)
        print(
            f"{chosen}: success {fmean(after):.3f} ± {spread:.3f} (rooms); seeds {min(after):.3f} to {max(after):.3f}"
        )
    common.publish(rows, options.runs / "result.jsonl")
    raise SystemExit(0 if rows else code or 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", help="which GPUs (default: all); the warm start is cloned on the first")
    parser.add_argument("--side-by-side", type=int, metavar="N", help="runs at a time (default: one a GPU)")
    parser.add_argument("--steps", type=int, help="of training (200)")
    parser.add_argument("--every", type=int, default=25, help="steps between validations")
    parser.add_argument("--algorithm", choices=("grpo", "ppo"), default="grpo")
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--clone-steps", type=int, default=1000)
    parser.add_argument("--clone-lr", type=float, default=6e-4)
    parser.add_argument(
        "--noise", type=float, default=0.7, help="of the demonstrator, in the last fifth of the cloning"
    )
    parser.add_argument("--minutes", type=float, default=8.5, help="after which the sweep is interrupted")
    parser.add_argument("--one", action="store_true", help="one run on one GPU")
    parser.add_argument("--calibrate", metavar="'A=1 B=2;A=3'", help="only measure warm starts with these parameters")
    parser.add_argument("--runs", type=Path, help="where everything is written (default: a temporary directory)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script out")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one and not options.gpus and torch.cuda.is_available():
        options.gpus = "0"
    options.steps = options.steps or (2 if options.quick else 200)
    if options.quick:
        options.every, options.clone_steps = 1, 20
    options.runs = options.runs or Path(tempfile.mkdtemp(prefix="sokoban-"))
    return options


if __name__ == "__main__":
    main()
