"""Run as one of several ranks: what is exported before and after training, and what the trainer computes."""

import sys

import attrs
import torch
from ranks_launch import backend
from uncollapse.core.compose.experiment import Lora, Model, Trainer
from uncollapse.estimators.aggregation import TokenMean
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.rollout.fingerprint import fingerprint
from uncollapse.plugins.training.networks.models import load_policy
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.batch import Batch, shares
from uncollapse.plugins.training.step.losses import PolicyObjective
from uncollapse.plugins.training.step.stages import score
from uncollapse.plugins.training.weights.export_weights import adapter_weights, full_weights


def export(directory: str, stage: int, lora: bool, dtype: str = "float32") -> dict:
    ranks = start_ranks()
    settings = Model(path="x", dtype=dtype, lora=Lora(rank=4, alpha=8) if lora else None)
    torch.manual_seed(0)  # an adapter starts at random
    policy = load_policy(settings, f"{directory}/model", 1.0)
    batch = Batch(**torch.load(f"{directory}/batch.pt", weights_only=True))
    batch = attrs.evolve(batch, weights=TokenMean().weights(batch.mask, 1))
    engine = backend(stage).start(policy, Trainer(lr=1e-2), zero_stage=stage, dtype=dtype, ranks=ranks)
    found = {"before": copied(full_weights(engine, policy))}
    for _ in range(2):  # an adapter's A stands still in the first step, where B is zero
        engine.update(shares(batch, range(len(batch)), ranks.size, 3)[ranks.rank], PolicyObjective(Ppo()))
    found |= {"after": copied(full_weights(engine, policy)), "fingerprint": fingerprint(full_weights(engine, policy))}
    found["parameters"] = copied(engine.weights())
    if lora:
        found["adapter"] = copied(adapter_weights(engine, policy))
    # the last thing: whatever was gathered must have been let go of in good order
    return {**found, "logprobs": score(engine, batch, 3, ranks).logprobs}


def copied(named):
    return {name: tensor.clone().cpu() for name, tensor in named}


if __name__ == "__main__":
    result = export(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True")
    torch.save(result, f"{sys.argv[1]}/out_{start_ranks().rank}.pt")
