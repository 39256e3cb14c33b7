"""The peer of ``step.py`` is the ``GRPOTrainer`` of TRL, on prompts, tokens and rewards of an experiment of ours."""

from __future__ import annotations

import argparse
import time
from typing import Any

import common
import torch


def run(options: argparse.Namespace, composed: Any) -> tuple[list[dict[str, float]], common.Peak, float]:
    """Train what ``composed`` says; the numbers of each step, the memory, and the seconds that it took to start."""
    from datasets import Dataset
    from transformers import PrinterCallback, Qwen2ForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    from uncollapse.plugins.rollout.conversation import Conversation
    from uncollapse.plugins.rollout.template import Template
    from uncollapse.plugins.training.networks.models import load_tokenizer

    started = time.perf_counter()
    dtype, _, liger = options.peer_dtype.partition("+")
    rollout, environment, gpu = composed.rollout, composed.environment.component, torch.cuda.is_available()
    tokenizer, total = load_tokenizer(options.model), 1 + options.steps
    tokenizer.eos_token = "<eos>"  # the trainer needs one; the model cannot say it
    template = Template(tokenizer, composed.dialogue.component, rollout.think)
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
        texts = [template.tag + message["content"] for (message,) in completions]
        answers = [template.dialogue.parse(text, first.setting) for text in texts]
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
        use_liger_kernel=liger == "liger",
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
    model = Qwen2ForCausalLM.from_pretrained(options.model, dtype=getattr(torch, dtype))
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
    return steps, peak, start_s


def _of_step(prompts: list[int], step: int, groups: int) -> list[int]:
    return prompts[step * groups : (step + 1) * groups]
