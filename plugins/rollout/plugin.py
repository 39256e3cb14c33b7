"""The names of the built-in rollout engines."""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl


@hookimpl
def register_rollout_engines(register: Register) -> None:
    register("hf", "uncollapse.plugins.rollout.engine_hf:HfEngine", summary="sample with the trainer's own model")
    register(
        "vllm",
        "uncollapse.plugins.rollout.engine_vllm.engine:VllmEngine",
        summary="sample with vLLM in a process of its own, on the same GPU or others",
    )
