"""The rollout engine ``vllm`` must sample with the weights that train, wherever it may be placed on two GPUs.

    python benchmarks/gpu/engines.py [--cases colocated,other,tensor-parallel,ranks-zero2,ranks-zero3] [--quick]

Each case takes three GRPO steps (one turn of Sokoban) with a random model of 50M parameters, in processes of its own:

colocated        one trainer on GPU 0, and its engine beside it
other            one trainer on GPU 0, its engine on GPU 1: weights go by IPC handle, from one GPU to the other
tensor-parallel  one trainer on GPU 0, its engine on GPU 0 and GPU 1
ranks-zero2      two trainers with ZeRO-2, each with an engine beside it
ranks-zero3      the same with ZeRO-3

``mismatch`` is the largest of the steps' mean |log-prob difference| between sampler and trainer (nats), and must stay
below 0.05. ``moved`` is how far a step takes the policy at least, in the same unit: what ``mismatch`` would be with the
weights of the step before. It must be larger, or the first number would prove nothing. Seconds are medians over the
steps after the first; ``GiB`` is the most that torch held in a trainer, ``GPU`` the most that was in use on its GPU.

A case that fails, or takes longer than ``--limit``, is printed with its error and the others go on; the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import attrs
import common
import launch
import torch

PHASES = ("sync", "rollout", "score", "update_actor")
COLUMNS = {
    "case": "case", "mismatch/abs": "mismatch", "moved": "moved", **{f"{phase}_s": phase for phase in PHASES},
    "step_s": "step s", "train/reward": "reward", "trainer_gib": "GiB", "gpu_gib": "GPU", "peer_access": "peer",
    "start_s": "start s",
}  # fmt: skip
LIMIT = 0.05
"""Nats. Log-probs in bf16 are off by a few thousandths on average."""


@attrs.frozen
class Case:
    world: int = 1
    zero_stage: int = 2
    engine: dict[str, Any] = attrs.field(factory=dict)
    """Parameters of ``vllm``."""


CASES = {
    "colocated": Case(),
    "other": Case(engine={"gpus": [1]}),
    "tensor-parallel": Case(engine={"tensor_parallel": 2}),
    "ranks-zero2": Case(world=2),
    "ranks-zero3": Case(world=2, zero_stage=3),
}


def impossible(case: Case) -> str:
    """Why it cannot be tried on this machine; nothing where it can."""
    if not torch.cuda.is_available():
        return "it places the engine on GPUs, and there is none" if case.engine else ""
    needed, found = 2 if case.engine else case.world, torch.cuda.device_count()
    return f"it needs {needed} GPUs, and torch sees {found}" if found < needed else ""


# --- a rank -----------------------------------------------------------------------------------------------------------


def worker(options: argparse.Namespace) -> None:
    """One rank of one case; the first reports it."""
    from uncollapse.plugins.training.assemble import assemble
    from uncollapse.plugins.training.processes.ranks import start_ranks
    from uncollapse.plugins.training.step.loop import Loop

    started = time.perf_counter()
    composed, ranks = compose(CASES[options.case], options), start_ranks()
    loop = Loop(composed, assemble(composed, ranks), ranks)
    start_s = time.perf_counter() - started
    steps = []
    try:
        with common.Peak() as peak:
            for _ in range(options.steps):
                before = time.perf_counter()
                metrics = loop.train_step()
                common.synchronize()
                own = {"step": time.perf_counter() - before, "train/reward": metrics["train/reward"]}
                own |= {name.removeprefix("timing_s/"): seconds for name, seconds in loop.timings().items()}
                steps.append({**own, "mismatch/abs": metrics["mismatch/abs"], "moved": moved(loop)})
                print(steps[-1], flush=True)
    finally:
        loop.parts.close()
    memory = ranks.gather((peak.own_gib, peak.gib))
    if ranks.first:
        trainer_gib, gpu_gib = (max(values) for values in zip(*memory, strict=True))
        found = {"start_s": start_s, "steps": steps, "trainer_gib": trainer_gib, "gpu_gib": gpu_gib}
        launch.report(options.results, found)


def moved(loop: Any) -> float:
    """Mean |log-prob difference| (nats) between the policy after a step and the sampler before it."""
    from uncollapse.plugins.training.step import stages

    rollouts = stages.to_rollouts(loop.episodes, loop.experiment)
    batch = stages.to_batch(rollouts)
    scores = stages.score(loop.parts.policy, batch, loop.experiment.trainer.score_batch, loop.ranks)
    return stages.masked_mean((scores.logprobs - rollouts.logprobs).abs(), batch.mask)


def compose(case: Case, options: argparse.Namespace) -> Any:
    import uncollapse

    # what is asked is where the engine runs, not how fast: no CUDA graphs, and a cache that is not measured first
    engine = {"name": "vllm", "enforce_eager": True, "kv_cache_gib": options.cache_gib, "max_num_seqs": 64}
    return uncollapse.compose({
        "environment": {"name": "sokoban"},
        "model": {"path": str(options.model), "dtype": common.dtype()},
        "rollout": {
            "engine": {**engine, **case.engine}, "groups": options.groups, "group_size": options.group_size,
            "max_turns": 1, "max_tokens": options.max_tokens, "max_context": 1024, "format_penalty": 0.5,
        },
        "advantage": "grpo",
        "critic": None,
        "collapse": [],
        "validation": {"every": 0},
        "trainer": {
            "steps": 1000, "mini_batch": options.groups * options.group_size, "micro_batch": 8, "score_batch": 8,
            "zero_stage": case.zero_stage, "lr": options.lr, "save_last": False, "log_rollouts": 0,
        },
    })  # fmt: skip


# --- all cases --------------------------------------------------------------------------------------------------------


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The row of a case; with ``skipped`` or ``error`` where it was not tried or went wrong."""
    case = CASES[name]
    own = {
        "benchmark": "engines", "case": name, "world": case.world, "zero_stage": case.zero_stage,
        "engine": case.engine, "shape": options.shape, **common.setting(),
    }  # fmt: skip
    if reason := impossible(case):
        return {**own, "skipped": reason}
    try:
        (found,) = launch.reports([*sys.argv, "--case", name], case.world, options.limit)
    except launch.ProcessError as error:
        return {**own, "error": str(error)}
    except ValueError:
        return {**own, "error": "its processes ended without a word"}
    steps = found.pop("steps")
    middle = {key: median(step[key] for step in steps[1:]) for key in steps[0]}
    gpus = {0, *(case.engine.get("gpus") or range(case.engine.get("tensor_parallel", 1)))}
    row = {
        **own, **found, "mismatch/abs": max(step["mismatch/abs"] for step in steps),
        "moved": min(step["moved"] for step in steps[:-1]), "train/reward": middle["train/reward"],
        "step_s": middle["step"], **{f"{phase}_s": middle[phase] for phase in PHASES},
        "peer_access": torch.cuda.can_device_access_peer(1, 0) if len(gpus) > 1 else None, "steps": steps,
    }  # fmt: skip
    if not row["mismatch/abs"] <= LIMIT:
        row["error"] = f"sampler and trainer differ by {row['mismatch/abs']:.3g} nats: the weights did not arrive"
    elif row["moved"] <= case.world * LIMIT:  # one rank's engine with old weights must show in the mean over all
        row["error"] = f"a step took the policy only {row['moved']:.3g} nats, so old weights would not show: raise --lr"
    return row


def main() -> None:
    options = arguments()
    if options.results:
        worker(options)
        return
    options.model.mkdir(parents=True, exist_ok=True)
    common.write_model(options.model, options.shape)
    quiet = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    if not torch.cuda.is_available():
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    rows = []
    for name in options.cases.split(","):
        rows.append(measured(name, options))
        print(json.dumps(rows[-1]), flush=True)  # a command that is cut off has said what it knows
    if not options.keep:
        shutil.rmtree(options.model, ignore_errors=True)
    one = rows[0]
    print(f"\n{sum(common.parameters(options.shape)):,} parameters, {options.steps} steps; {one['gpu']}, {one['date']}")
    common.table(rows, COLUMNS)
    for row in rows:
        for what in ("skipped", "error"):
            if what in row:
                print(f"{row['case']}: {'skipped' if what == 'skipped' else 'FAILED'}: {row[what]}")
    common.publish(rows, options.out)
    if any("error" in row for row in rows):
        raise SystemExit(1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--shape", choices=common.SHAPES, default="50m")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=24, help="sampled tokens of a response")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-3, help="large, so that every step can be told from the next")
    parser.add_argument("--cache-gib", type=float, default=1.0, help="the engine's KV cache")
    parser.add_argument("--limit", type=float, default=150, help="seconds for a case")
    parser.add_argument("--model", type=Path, help="where the random model is, or is to be written")
    parser.add_argument("--keep", action="store_true", help="keep the model")
    parser.add_argument("--out", type=Path, help="append the JSON lines to this file")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to try the script out")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--results", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.cases.split(",")) - set(CASES):
        parser.error(f"--cases: {', '.join(sorted(unknown))} is not among {', '.join(CASES)}")
    if options.quick:
        options.shape, options.groups, options.group_size, options.cache_gib = "tiny", 4, 4, 0.25
        options.lr *= 4  # so small a model moves less
    options.model = options.model or common.scratch() / options.shape
    return options


if __name__ == "__main__":
    main()
