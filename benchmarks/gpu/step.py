"""Training steps of a 3B model on one GPU: seconds of each phase, tokens a second, share of the peak, memory.

    python benchmarks/gpu/step.py [--algorithm grpo|ppo] [--shared-critic] [--task single|sokoban] [--peer] [--quick]

128 episodes a step (8 groups of 16) of a random model with the shape of Qwen2.5-3B, which never ends a response: every
one has exactly ``--max-tokens`` tokens. ``single`` is one turn of 256 tokens after a prompt of about 250; ``sokoban``
the full-size experiment's shape, five turns of up to 400 tokens. AdamW with fp32 master weights and states, gradient
checkpointing, KL and entropy bonus off; one optimizer step over all rows for ``single`` (as TRL does it), mini-batches
of 32 for ``sokoban``. One warm-up step, then ``--steps``; medians.

``--peer`` lets the ``GRPOTrainer`` of TRL do the same (``single``, GRPO) in a process of its own: same model, prompts,
tokens, rewards, micro-batches, colocated vLLM with sleep mode and the same share of the memory. It trains either bf16
weights with bf16 AdamW states and no master weights (``--peer-dtype bfloat16``: less memory and traffic than ours), or
fp32 weights under autocast (``float32``: the same bytes of state as ours); ``+liger`` after either gives it Liger's
layers. Both sides correct for the sampler as TRL does by default: rows whose ratio is above 3 are dropped.

Phases: ``sync`` is waking the engine, sending it the weights, and putting it to sleep; ``rollout`` from prompts to
rewards; ``score`` the trainer's log-probs of what was sampled (and a critic's values); then the updates. TRL puts its
engine to sleep within ``rollout``, and its ``score`` includes the rewards. ``peak`` is the updates' share of 989
TFLOP/s; ``GiB`` what torch held at most in the trainer (of TRL: with its engine), ``GPU`` all that was in use at most.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import common
import torch

PHASES = ("sync", "rollout", "score", "update_critic", "update_actor")
COLUMNS = {
    "side": "side", "step_s": "step s", **{f"{phase}_s": phase for phase in PHASES}, "tokens_per_s": "tok/s",
    "sampled_per_s": "sampled/s", "peak_share": "peak", "trainer_gib": "GiB", "gpu_gib": "GPU",
    "mismatch/abs": "mismatch", "start_s": "start s",
}  # fmt: skip


def experiment(options: argparse.Namespace) -> Any:
    import uncollapse
    from uncollapse.core.compose.experiment import keys

    single, gpu = options.task == "single", torch.cuda.is_available()
    rows = options.groups * options.group_size
    engine: Any = options.engine
    if engine == "vllm":
        engine = {"name": "vllm", "gpu_memory_utilization": options.utilization, "enforce_eager": options.eager}
        engine |= {} if gpu else {"kv_cache_gib": 0.25}
    trainer = {
        "steps": 1000, "mini_batch": rows if single else max(options.micro_batch, rows // 4),
        "micro_batch": options.micro_batch, "score_batch": options.score_batch, "zero_stage": 2,
        "save_last": False, "log_rollouts": 0,
    }  # fmt: skip
    if options.packing and "trainer.token_budget" in keys():
        trainer["token_budget"] = options.packing
    return uncollapse.compose({
        "environment": {"name": "sokoban"},
        "model": {
            "path": str(options.model), "dtype": common.dtype(),
            "gradient_checkpointing": options.gradient_checkpointing, "liger": options.liger,
        },
        "rollout": {
            "engine": engine, "groups": options.groups, "group_size": options.group_size,
            "max_turns": 1 if single else 5, "max_tokens": options.max_tokens,
            "max_context": 1024 if single else 3600, "format_penalty": 0.5,
        },
        "advantage": "grpo" if options.algorithm == "grpo" else "gae",
        "policy_loss": "ppo(clip_low=0.2, clip_high=0.2, dual_clip=null)",
        **({"correction": "sequence_mask(sum, low=0, high=3, weight=sequence)"} if single else {}),
        "critic": None if options.algorithm == "grpo" else {"shared": options.shared_critic},
        "collapse": [],
        "validation": {"every": 0},
        "trainer": trainer,
    })  # fmt: skip


# --- the two sides ----------------------------------------------------------------------------------------------------


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """The loop that ``uncollapse train`` runs, one step at a time."""
    from uncollapse.plugins.training.assemble import assemble
    from uncollapse.plugins.training.processes.ranks import start_ranks
    from uncollapse.plugins.training.step.loop import Loop

    started = time.perf_counter()
    composed, ranks = experiment(options), start_ranks()
    loop = Loop(composed, assemble(composed, ranks), ranks)
    start_s = time.perf_counter() - started
    steps: list[dict[str, float]] = []
    with common.Peak() as peak:
        for _ in range(1 + options.steps):
            before = time.perf_counter()
            metrics = loop.train_step()
            common.synchronize()
            step_s = time.perf_counter() - before
            own = {name.removeprefix("timing_s/"): seconds for name, seconds in loop.timings().items()}
            own["score"] = own.get("score", 0.0) + own.pop("values", 0.0)
            sampled = [len(turn.tokens) for episode in loop.episodes for turn in episode.turns]
            last = [episode.turns[-1] for episode in loop.episodes]
            tokens = sum(len(turn.prompt) + len(turn.tokens) for turn in last)
            if set(sampled) != {options.max_tokens}:
                raise SystemExit(f"responses of {min(sampled)} to {max(sampled)} tokens, not {options.max_tokens}")
            steps.append({**own, "step": step_s, "tokens": tokens, "sampled": sum(sampled), **_numbers(metrics)})
            print({name: round(value, 4) for name, value in steps[-1].items()}, flush=True)
    loop.parts.close()
    critics = int(options.algorithm == "ppo" and not options.shared_critic)
    return row("ours", options, steps, peak, start_s, critics)


def _numbers(metrics: dict[str, float]) -> dict[str, float]:
    return {
        name: value
        for name, value in metrics.items()
        if name.startswith(("mismatch/", "correction/")) or name in ("train/reward", "actor/grad_norm", "actor/entropy")
    }


def theirs(options: argparse.Namespace) -> dict[str, Any]:
    """The trainer of TRL."""
    import trl_peer

    found = trl_peer.run(options, experiment(options))
    name = ", ".join(["TRL", *options.peer_dtype.replace("liger", "Liger").split("+")])
    return row(name, options, *found, 0)


def row(
    side: str,
    options: argparse.Namespace,
    steps: list[dict[str, float]],
    peak: common.Peak,
    start_s: float,
    critics: int,
) -> dict[str, Any]:
    """Medians over the steps after the first."""
    counted = steps[1:]
    middle = {name: median(step[name] for step in counted) for name in counted[0]}
    update = middle.get("update_actor", 0.0) + middle.get("update_critic", 0.0)
    flops = common.update_flops(
        options.shape, int(middle["tokens"]), int(middle["sampled"]), options.gradient_checkpointing, critics
    )
    return {
        "benchmark": "step", "side": side, "task": options.task, "algorithm": options.algorithm,
        "shared_critic": options.shared_critic, "shape": options.shape,
        "parameters": sum(common.parameters(options.shape)),
        "engine": options.peer_engine if side.startswith("TRL") else options.engine, "packing": options.packing,
        "micro_batch": options.micro_batch, "gradient_checkpointing": options.gradient_checkpointing,
        "liger": options.liger if side == "ours" else "Liger" in side,
        "utilization": options.utilization, "episodes": options.groups * options.group_size,
        "steps": len(counted), "start_s": start_s, "step_s": middle["step"],
        **{f"{phase}_s": middle[phase] for phase in PHASES if phase in middle},
        "tokens": middle["tokens"], "sampled": middle["sampled"],
        "tokens_per_s": middle["tokens"] / middle["step"], "sampled_per_s": middle["sampled"] / middle["rollout"],
        "peak_share": flops / update / common.PEAK if torch.cuda.is_available() else None,
        "trainer_gib": peak.own_gib, "gpu_gib": peak.gib,
        **{name: value for name, value in middle.items() if "/" in name},
        "each_step_s": [step["step"] for step in counted], **common.setting(),
    }  # fmt: skip


# --- the command ------------------------------------------------------------------------------------------------------


def main() -> None:
    options = arguments()
    if options.side:
        options.model.mkdir(parents=True, exist_ok=True)
        common.write_model(options.model, options.shape)
        found = (ours if options.side == "ours" else theirs)(options)
        Path(options.result).write_text(json.dumps(found))
        return
    sides = [["ours"], *([["trl", dtype] for dtype in options.peer_dtype.split(",")] if options.peer else [])]
    rows = [found for side in sides if (found := run(*side))]
    if not options.keep:
        shutil.rmtree(options.model, ignore_errors=True)
    if not rows:
        raise SystemExit(1)
    first = rows[0]
    print(
        f"\n{first['task']}, {first['algorithm']}: {first['episodes']} episodes, {first['tokens']:,.0f} tokens a step "
        f"({first['sampled']:,.0f} sampled); {first['parameters']:,} parameters; {first['gpu']}, {first['date']}"
    )
    common.table(rows, COLUMNS)
    for other in rows[1:] if first["side"] == "ours" else ():
        pairs = ("step_s", "sync_s", "rollout_s", "score_s", "update_actor_s", "trainer_gib", "gpu_gib")
        ratios = {name: first[name] / other[name] for name in pairs if first.get(name) and other.get(name)}
        print(f"ours / {other['side']}: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    common.publish(rows, options.out)
    if len(rows) < len(sides):
        raise SystemExit(1)


def run(side: str, dtype: str = "") -> dict[str, Any] | None:
    """Call the script again, for one side: a process of its own, so that nothing of the other is left in memory."""
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / "row.json"
        own = [sys.executable, *sys.argv, "--side", side, "--result", str(result)]
        quiet = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        subprocess.run([*own, *(["--peer-dtype", dtype] if dtype else [])], check=False, env={**quiet, **os.environ})
        if not result.exists():
            return None
        print(result.read_text(), flush=True)  # a command that is cut off has said what it knows
        return json.loads(result.read_text())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("single", "sokoban"), default="single")
    parser.add_argument("--algorithm", choices=("grpo", "ppo"), default="grpo")
    parser.add_argument("--shared-critic", action="store_true", help="of PPO: a head on the policy's trunk")
    parser.add_argument("--engine", choices=("vllm", "hf"), default="vllm")
    parser.add_argument("--shape", choices=common.SHAPES, default="3b")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, help="sampled tokens of a turn (256, sokoban 400)")
    parser.add_argument("--micro-batch", type=int, help="rows of a forward and backward pass (16, sokoban 4)")
    parser.add_argument("--score-batch", type=int, help="rows of a forward pass (32, sokoban 8)")
    parser.add_argument("--packing", type=int, help="trainer.token_budget, where this version has it")
    parser.add_argument("--no-gradient-checkpointing", dest="gradient_checkpointing", action="store_false")
    parser.add_argument("--liger", action="store_true", help="ours with Liger's fused layers")
    parser.add_argument("--utilization", type=float, default=0.25, help="the engine's share of the GPU's memory")
    parser.add_argument("--eager", action="store_true", help="vLLM without CUDA graphs")
    parser.add_argument("--steps", type=int, default=3, help="counted steps")
    parser.add_argument("--peer", action="store_true", help="TRL's GRPOTrainer as well")
    parser.add_argument(
        "--peer-dtype", default="bfloat16", help="bfloat16, float32, either with +liger; several with commas"
    )
    parser.add_argument("--peer-engine", choices=("vllm", "hf"), default="vllm")
    parser.add_argument("--model", type=Path, help="where the random model is, or is to be written")
    parser.add_argument("--keep", action="store_true", help="keep the model")
    parser.add_argument("--out", type=Path, help="append the JSON lines to this file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script out")
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer and (options.task, options.algorithm) != ("single", "grpo"):
        parser.error("--peer is for --task single --algorithm grpo")
    if options.quick:
        options.shape, options.groups, options.group_size, options.eager = "tiny", 2, 4, True
        options.max_tokens, options.micro_batch, options.peer_dtype = 16, 4, "float32"
        options.steps = min(options.steps, 2)
        if not torch.cuda.is_available():
            options.peer_engine = "hf"  # TRL cannot send weights to vLLM on a CPU
    defaults = {"max_tokens": (256, 400), "micro_batch": (16, 4), "score_batch": (32, 8)}
    for name, values in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, values[options.task == "sokoban"])
    options.model = options.model or common.scratch() / options.shape
    return options


if __name__ == "__main__":
    main()
