"""Names of the built-in policy losses and train backends."""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl


@hookimpl
def register_policy_losses(register: Register) -> None:
    register(
        "ppo",
        "uncollapse.plugins.training.policy_losses:Ppo",
        summary="clipped surrogate with separate bounds and a dual clip",
    )


@hookimpl
def register_train_backends(register: Register) -> None:
    register(
        "deepspeed",
        "uncollapse.plugins.training.deepspeed_backend:DeepSpeed",
        summary="ZeRO 0-3 with AdamW and fp32 master weights",
    )
