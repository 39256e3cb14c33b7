"""The reference weights that TRL's ``sync_ref_model`` makes, for :mod:`tests.plugins.training.test_reference`.

    python tests/peers/trl_reference.py        (in an environment that has trl; README.md says how it is made)

The callback itself runs after every step of a small layer, whose weights move in between.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from accelerate import Accelerator
from inputs import write
from trl.trainer.callbacks import SyncRefModelCallback

STEPS = 7
CASES = ((3, 0.6), (1, 0.05), (2, 1.0))
"""Steps from one move to the next, and the share of the policy."""


def drawn(steps: int) -> torch.Tensor:
    """The policy's weights at the start, and after each step: [steps + 1, 2, 3]."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(steps + 1, 2, 3, generator=generator).mul(0.1).cumsum(0)


def references(every: int, alpha: float) -> list[list[list[float]]]:
    """The reference's weights after each step."""
    policy, reference = torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(3, 2, bias=False)
    callback = SyncRefModelCallback(ref_model=reference, accelerator=None)
    args = SimpleNamespace(ref_model_sync_steps=every, ref_model_mixup_alpha=alpha)
    weights = drawn(STEPS)
    policy.weight.data.copy_(weights[0])
    reference.weight.data.copy_(weights[0])
    after = []
    for step in range(1, STEPS + 1):
        policy.weight.data.copy_(weights[step])
        callback.on_step_end(args, SimpleNamespace(global_step=step), None, model=policy)
        after.append(reference.weight.tolist())
    return after


if __name__ == "__main__":
    Accelerator(cpu=True)
    cases = [{"every": every, "alpha": alpha, "references": references(every, alpha)} for every, alpha in CASES]
    write("trl_reference", "trl", {"policies": drawn(STEPS).tolist()}, cases)
