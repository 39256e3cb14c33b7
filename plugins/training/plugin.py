"""The plugin of training registers the built-in token heads and train backends, and the commands of training."""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl


@hookimpl
def register_token_heads(register: Register) -> None:
    register(
        "auto",
        "uncollapse.plugins.training.heads.auto_head:Auto",
        summary="the fastest of the built-in heads that the device and the installation allow",
    )
    register(
        "torch",
        "uncollapse.plugins.training.heads.torch_head:Torch",
        summary="the reference: chunks of rows in plain torch, on any device, forward mode too",
    )
    register(
        "triton",
        "uncollapse.plugins.training.heads.triton_head:Triton",
        summary="vocabulary tiles from cuBLAS, read once each by fused kernels; GPUs only",
    )
    register(
        "trl",
        "uncollapse.plugins.training.heads.trl_head:Trl",
        summary="the chunked log-prob kernel of TRL, where TRL is installed",
    )


@hookimpl
def register_train_backends(register: Register) -> None:
    register(
        "deepspeed",
        "uncollapse.plugins.training.deepspeed_backend:DeepSpeed",
        summary="ZeRO 0-3 with AdamW and fp32 master weights",
    )


@hookimpl
def register_commands(register: Register) -> None:
    commands = "uncollapse.plugins.training.commands"
    register("train", f"{commands}.train:command", summary="Train an experiment.")
    register("eval", f"{commands}.eval:command", summary="Measure the success of a checkpoint.")
    register(
        "export", f"{commands}.export:command", summary="Write a checkpoint as a plain Hugging Face model or adapter."
    )
