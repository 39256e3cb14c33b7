"""Registers the built-in trackers."""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl


@hookimpl
def register_trackers(register: Register) -> None:
    register("jsonl", "uncollapse.plugins.tracking.jsonl:Jsonl", summary="metrics.jsonl of the run (always on)")
    register("wandb", "uncollapse.plugins.tracking.wandb:Wandb", summary="Weights & Biases, offline by default")
    register("progress", "uncollapse.plugins.tracking.progress:Progress", summary="a live line, or one line per step")
