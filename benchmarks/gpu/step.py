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
fp32 weights under autocast (``float32``: the same bytes of state as ours).

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
    from uncollapse.core.experiment import keys

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
        "critic": None if options.algorithm == "grpo" else {"shared": options.shared_critic},
        "collapse": [],
        "validation": {"every": 0},
        "trainer": trainer,
    })  # fmt: skip


# --- the two sides ----------------------------------------------------------------------------------------------------


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """The loop that ``uncollapse train`` runs, one step at a time."""
    from uncollapse.plugins.training.assemble import assemble
    from uncollapse.plugins.training.loop import Loop
    from uncollapse.plugins.training.ranks import start_ranks

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
    loop.parts.sampler.engine.close()
    critics = int(options.algorithm == "ppo" and not options.shared_critic)
    return row("ours", options, steps, peak, start_s, critics)


def _numbers(metrics: dict[str, float]) -> dict[str, float]:
    return {
        name: value
        for name, value in metrics.items()
        if name.startswith("mismatch/") or name in ("train/reward", "actor/grad_norm", "actor/entropy")
    }


def theirs(options: argparse.Namespace) -> dict[str, Any]:
    """The trainer of TRL."""
    from datasets import Dataset
    from transformers import PrinterCallback, Qwen2ForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    from uncollapse.plugins.rollout.conversation import Conversation
    from uncollapse.plugins.rollout.parsing import parse
    from uncollapse.plugins.rollout.template import Template
    from uncollapse.plugins.training.models import load_tokenizer

    started = time.perf_counter()
    composed = experiment(options)
    rollout, environment, gpu = composed.rollout, composed.environment.component, torch.cuda.is_available()
    tokenizer, total = load_tokenizer(options.model), 1 + options.steps
    tokenizer.eos_token = "<eos>"  # the trainer needs one; the model cannot say it
    template = Template(tokenizer, rollout.think)
    rows, prompts = [], []
    for seed in range(rollout.seed, rollout.seed + total * rollout.groups):
        first = Conversation(environment, rollout, template, seed)
        prompt = [{"role": "system", "content": first.system}, {"role": "user", "content": first.user}]
        if tuple(tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]) != first.prompt:
            raise SystemExit("the two sides would read different prompts")
        rows.append({"prompt": prompt, "seed": seed})
        prompts.append(len(first.prompt))
    sampled: list[int] = []
    rewards: list[float] = []

    def reward(completions: list[Any], completion_ids: list[Any], seed: list[int], **_: Any) -> list[float]:
        answers = [
            parse(template.tag + message["content"], environment.actions, rollout.max_actions_per_turn, rollout.think)
            for (message,) in completions
        ]
        values = []
        for answer, one in zip(answers, seed, strict=True):
            room = environment.make(one)
            taken = sum(room.step(action).reward for action in answer.actions)
            values.append(taken - (0.0 if answer.valid else rollout.format_penalty))
        sampled.append(sum(map(len, completion_ids)))
        rewards.append(sum(values) / len(values))
        return values

    count = options.groups * options.group_size
    config = GRPOConfig(
        output_dir=str(options.model / "trl"),
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=count // options.micro_batch,
        num_generations=options.group_size,
        max_completion_length=options.max_tokens,
        max_steps=total,
        learning_rate=composed.trainer.lr,
        weight_decay=composed.trainer.weight_decay,
        max_grad_norm=composed.trainer.grad_clip,
        lr_scheduler_type="constant",
        beta=0.0,
        loss_type="dapo",
        scale_rewards="group",
        shuffle_dataset=False,
        bf16=gpu,
        use_cpu=not gpu,
        gradient_checkpointing=options.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_vllm=options.peer_engine == "vllm",
        vllm_mode="colocate",
        vllm_enable_sleep_mode=gpu,
        vllm_gpu_memory_utilization=options.utilization,
        vllm_max_model_length=rollout.max_context,
        logging_steps=total + 1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    model = Qwen2ForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.peer_dtype))
    clock, steps = common.Clock(), []

    class Steps(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            common.synchronize()
            step_s, part = time.perf_counter() - self.started, clock.take()
            sync, generate, scored = (part.get(name, 0.0) for name in ("sync", "generate", "scored"))
            known = trainer._metrics["train"].get("sampling/sampling_logp_difference/mean", [])
            steps.append({
                "sync": sync, "rollout": generate - sync, "score": scored - generate, "update_actor": step_s - scored,
                "step": step_s, "sampled": sampled[-1], "train/reward": rewards[-1],
                "tokens": sampled[-1] + options.group_size * sum(_of_step(prompts, len(steps), options.groups)),
                **({"mismatch/abs": known[-1]} if known else {}),
            })  # fmt: skip
            print({name: round(value, 4) for name, value in steps[-1].items()}, flush=True)
            self.started = time.perf_counter()

    trainer = GRPOTrainer(
        model, reward, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[Steps()]
    )
    trainer.remove_callback(PrinterCallback)
    clock.watch(trainer, "_generate_single_turn", "generate")
    clock.watch(trainer, "_generate_and_score_completions", "scored")
    if options.peer_engine == "vllm":
        clock.watch(trainer.vllm_generation, "sync_weights", "sync")
    start_s = time.perf_counter() - started
    with common.Peak() as peak:
        trainer.train()
    if set(sampled) != {count * options.max_tokens}:
        raise SystemExit(f"TRL sampled {sampled} tokens a step, not {count * options.max_tokens}")
    return row(f"TRL, {options.peer_dtype}", options, steps, peak, start_s, 0)


def _of_step(prompts: list[int], step: int, groups: int) -> list[int]:
    return prompts[step * groups : (step + 1) * groups]


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
        "liger": options.liger and side == "ours",
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
    parser.add_argument("--peer-dtype", default="bfloat16", help="bfloat16, float32, or both with a comma")
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
