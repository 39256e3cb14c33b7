"""The names of the built-in rollout engines, task samplers and batch samplers."""

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


@hookimpl
def register_task_samplers(register: Register) -> None:
    register(
        "sequential",
        "uncollapse.plugins.rollout.task_samplers:Sequential",
        summary="tasks in the order of their seeds, from rollout.seed upwards",
    )
    register(
        "shuffled",
        "uncollapse.plugins.rollout.shuffled:Shuffled",
        summary="all tasks of a data set, in a new order each time",
    )
    register(
        "success_band",
        "uncollapse.plugins.rollout.success_band:SuccessBand",
        summary="tasks that are neither too hard nor too easy come more often",
    )


@hookimpl
def register_batch_samplers(register: Register) -> None:
    register(
        "fixed",
        "uncollapse.plugins.rollout.batch_samplers:Fixed",
        summary="rollout.groups new groups in each step",
    )
    register(
        "dynamic",
        "uncollapse.plugins.rollout.dynamic:Dynamic",
        summary="sample on until rollout.groups groups can teach",
    )
    register(
        "replay",
        "uncollapse.plugins.rollout.replay:Replay",
        summary="a part of each step are older groups, drawn by reward and freshness",
    )
