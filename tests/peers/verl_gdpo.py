"""Advantages of several rewards as verl computes them, for :mod:`tests.estimators.advantage`.

python tests/peers/verl_gdpo.py        (in an environment that has verl; README.md says how it is made)
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from inputs import write
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

GROUPS = [4, 4, 4, 4, 9, 9, 9, 2, 2, 2, 2, 2]
INPUTS = {
    "groups": torch.tensor(GROUPS),
    "lengths": torch.tensor([3, 1, 7, 5, 2, 8, 8, 4, 6, 1, 3, 2]),
    "rewards": {
        "right": torch.tensor([1, 0, 0, 1, 0, 0, 0, 1, 1, 1, 0, 1.0]),
        "format": torch.tensor([1, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1.0]),
        "brief": torch.tensor([-0.3, -0.1, -0.7, -0.5, -0.2, -0.8, -0.8, -0.4, -0.6, -0.1, -0.3, -0.2]),
    },
}
CASES = (["right", "format"], None), (["right", "format", "brief"], [1.0, 0.5, 0.2]), (["right", "brief"], [2.0, -1.0])


def cases():
    width = int(INPUTS["lengths"].max())
    mask = torch.arange(width)[None, :] < INPUTS["lengths"][:, None]
    batch = {
        "prompts": torch.zeros(len(GROUPS), 2),
        "attention_mask": torch.nn.functional.pad(mask, (2, 0), value=True),
    }
    rewards = {name: values.numpy() for name, values in INPUTS["rewards"].items()}
    for names, weights in CASES:
        settings = {"gdpo_reward_keys": names, "gdpo_reward_weights": weights}
        advantages, _ = get_adv_estimator_fn("gdpo")(
            torch.zeros(mask.shape),
            mask.float(),
            INPUTS["groups"].numpy(),
            config=SimpleNamespace(get=settings.get),
            non_tensor_batch=rewards,
            batch=batch,
        )
        yield {"names": names, "weights": weights or [1.0] * len(names), "advantages": advantages}


if __name__ == "__main__":
    write("verl_gdpo", "verl", INPUTS, list(cases()))
