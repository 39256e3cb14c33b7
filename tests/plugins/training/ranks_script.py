"""Run as one of several ranks: one optimizer step on this rank's share, or an optimizer state that is taken over and
given back; rank 0 writes what came out.
"""

import os
import sys

import attrs
import torch
from ranks_launch import backend
from transformers import Qwen2ForCausalLM
from uncollapse.core.compose.experiment import Trainer
from uncollapse.estimators.aggregation import TokenMean
from uncollapse.estimators.kl.variants import K3
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.networks.packing import enable_packing
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.batch import Batch, shares
from uncollapse.plugins.training.step.losses import PolicyObjective
from uncollapse.plugins.training.step.stages import score


def step(directory: str, stage: int, size: int, budget: int = 0, offload: str = "none") -> dict:
    ranks = start_ranks()
    policy = Policy(Qwen2ForCausalLM.from_pretrained(f"{directory}/model", dtype=torch.float32), 1.0)
    batch = Batch(**torch.load(f"{directory}/batch.pt", weights_only=True))
    batch = attrs.evolve(batch, weights=TokenMean().weights(batch.mask, 1))
    options = {"packed": True} if budget else {}
    if budget:
        enable_packing(policy.model)
    engine = backend(stage).start(
        policy, Trainer(lr=1e-3, grad_clip=0.0), zero_stage=stage, dtype="float32", ranks=ranks, offload=offload
    )
    scores = score(engine, batch, size, ranks, budget=budget)
    micro_batches = shares(batch, range(len(batch)), ranks.size, size, budget)[ranks.rank]
    metrics = engine.update(micro_batches, PolicyObjective(Ppo(), 0.03, K3(), 0.1), entropy="gradient", **options)
    moments = {name: values["exp_avg"] for name, values in engine.optimizer_state()["state"].items()}
    weights = {name: tensor.cpu() for name, tensor in engine.weights()}
    return {"moments": moments, "metrics": metrics, "weights": weights, "logprobs": scores.logprobs}


def give_back(directory: str, stage: int) -> dict:
    """The state in ``state.pt``, loaded into a bfloat16 model and gathered again."""
    policy = Policy(Qwen2ForCausalLM.from_pretrained(f"{directory}/model", dtype=torch.bfloat16), 1.0)
    engine = backend(stage).start(policy, Trainer(), zero_stage=stage, dtype="bfloat16", ranks=start_ranks())
    engine.load_optimizer_state(torch.load(f"{directory}/state.pt", weights_only=True))
    return engine.optimizer_state()


if __name__ == "__main__":
    if sys.argv[3] == "give back":
        result = give_back(sys.argv[1], int(sys.argv[2]))
    else:
        result = step(sys.argv[1], *map(int, sys.argv[2:5]), *sys.argv[5:])
    if int(os.environ["RANK"]) == 0:
        torch.save(result, f"{sys.argv[1]}/out.pt")
