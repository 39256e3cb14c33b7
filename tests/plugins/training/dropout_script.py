"""Run as one of several ranks: which of an adapter's inputs the first forward pass of a training step drops."""

import json
import sys

import torch
import uncollapse
from uncollapse.plugins.training.assemble import assemble
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.loop import Loop


def mask(bandit: dict) -> torch.Tensor:
    ranks = start_ranks()
    overrides = ["model.lora={rank: 2, dropout: 0.5}", "advantage=grpo", "trainer.micro_batch=1"]
    experiment = uncollapse.compose(bandit, overrides)
    parts = assemble(experiment, ranks)
    dropped = []

    def note(_, inputs, output):
        if parts.policy.module.training:
            dropped.append((output == 0)[0, 0].float())

    layer = parts.policy.module.language_model.get_decoder().layers[0].self_attn.q_proj
    layer.lora_dropout["default"].register_forward_hook(note)
    Loop(experiment, parts, ranks).train_step()
    parts.close()
    return dropped[0]


if __name__ == "__main__":
    result = mask(json.loads(sys.argv[1]))
    torch.save(result, f"{sys.argv[2]}/mask_{start_ranks().rank}.pt")
