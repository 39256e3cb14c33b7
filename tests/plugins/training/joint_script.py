"""Run as one of several ranks: one joint step of policy and shared critic on this rank's share of a saved batch."""

import os
import sys

import attrs
import torch
from ranks_launch import backend
from transformers import Qwen2ForCausalLM
from uncollapse.core.compose.experiment import Trainer
from uncollapse.estimators.aggregation import TokenMean
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.training.networks.shared_critic import HEAD, ActorCritic
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.batch import Batch, shares
from uncollapse.plugins.training.step.losses import CriticObjective, JointObjective, PolicyObjective

OBJECTIVE = JointObjective(PolicyObjective(Ppo(), 0.03), CriticObjective(0.5), 0.3)


def actor_critic(model, detach=False):
    """With a head that is not zero."""
    module = ActorCritic(model, 1.0, detach=detach)
    head = module.value_head
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-0.5, 0.4, head.weight.numel()))
        head.bias.fill_(0.1)
    return module


def step(directory: str, stage: int, size: int, detach: bool = False, policy: bool = True) -> dict:
    ranks = start_ranks()
    module = actor_critic(Qwen2ForCausalLM.from_pretrained(f"{directory}/model", dtype=torch.float32), detach)
    batch = Batch(**torch.load(f"{directory}/batch.pt", weights_only=True))
    batch = attrs.evolve(batch, weights=TokenMean().weights(batch.mask, 1))
    trainer = Trainer(lr=1e-3, grad_clip=0.0, weight_decay=0.0)
    engine = backend(stage).start(module, trainer, zero_stage=stage, dtype="float32", ranks=ranks, own_lr={HEAD: 1e-2})
    before = {name: tensor.clone() for name, tensor in engine.weights()}
    micro_batches = shares(batch, range(len(batch)), ranks.size, size)[ranks.rank]
    objective = OBJECTIVE if policy else attrs.evolve(OBJECTIVE, policy=None)
    metrics = engine.update(micro_batches, objective, entropy="gradient")
    moments = {name: values["exp_avg"] for name, values in engine.optimizer_state()["state"].items()}
    moved = {name: tensor.cpu() - before[name].cpu() for name, tensor in engine.weights()}
    return {"moments": moments, "metrics": metrics, "moved": moved}


if __name__ == "__main__":
    result = step(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    if int(os.environ["RANK"]) == 0:
        torch.save(result, f"{sys.argv[1]}/out.pt")
