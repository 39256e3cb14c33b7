"""An error says what to lower where the trainer's own process runs out of GPU memory."""

from __future__ import annotations

from ....core.errors import RESUME, RunError

LOWER = {
    "sync": "rollout.engine: gpu_memory_utilization",
    "rollout": "rollout.engine: gpu_memory_utilization (vllm) or batch (hf)",
    "validation": "rollout.engine: gpu_memory_utilization (vllm) or batch (hf)",
    "score": "trainer.score_batch or trainer.token_budget",
    "reference": "trainer.score_batch or trainer.token_budget",
    "detectors": "trainer.score_batch or trainer.token_budget, or take the detector out of collapse",
    "values": "trainer.score_batch or trainer.token_budget",
    "update_critic": "trainer.micro_batch or trainer.token_budget, or set model.gradient_checkpointing",
    "update_actor": "trainer.micro_batch or trainer.token_budget, or set model.gradient_checkpointing",
}
"""Stage of a step -> the settings to lower where that stage runs out of memory."""


def out_of_memory(stage: str, where: str) -> RunError:
    """Return the error of a run that is out of memory in ``stage``."""
    what = LOWER.get(stage, "the model, or set model.lora, trainer.offload or a higher trainer.zero_stage")
    return RunError(
        f"the GPU is out of memory (stage {stage})",
        where,
        f"lower {what}; `uncollapse doctor -e` says what fits; continue with {RESUME}",
    )
