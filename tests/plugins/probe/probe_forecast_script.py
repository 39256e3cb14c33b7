"""Run as one of several ranks: a forecast and its comparison on rollouts that all ranks have; writes the numbers."""

import sys
from types import SimpleNamespace

import attrs
import torch
import uncollapse
from uncollapse.core.components import Rollouts
from uncollapse.plugins.probe.forecast.forecast import EntropyForecast
from uncollapse.plugins.training.assemble import assemble
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step import stages
from uncollapse.plugins.training.step.losses import PolicyObjective
from uncollapse.plugins.training.step.pending import PendingUpdate


def rollouts(seed):
    """Four groups of three rows of different lengths, of random words."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(6, 11, (12,), generator=generator)
    places = torch.arange(10)[None]
    mask = (places >= 4) & (places < lengths[:, None])
    return Rollouts(
        tokens=torch.where(places < lengths[:, None], torch.randint(1, 40, (12, 10), generator=generator), 0),
        mask=mask,
        turns=torch.where(mask, 0, -1),
        logprobs=torch.where(mask, -3.0, 0.0),
        rewards=torch.zeros(12, 10),
        episodes=torch.arange(12),
        groups=torch.arange(12) // 3,
        raw_rewards_E=torch.zeros(12),
        group_ids_P=torch.arange(4),
        lengths=lengths,
    )


def main(model: str, directory: str) -> None:
    experiment = uncollapse.compose(
        {
            "model": {"path": model, "dtype": "float32"},
            "environment": "bandit",
            "advantage": "grpo",
            "rollout": {"groups": 4, "group_size": 3},
            "trainer": {"mini_batch": 6, "micro_batch": 3, "zero_stage": 0, "lr": 1e-3},
        }
    )
    ranks = start_ranks()
    parts = assemble(experiment, ranks)
    sampled, after = rollouts(1), rollouts(2)
    advantages = torch.randn(12, 1, generator=torch.Generator().manual_seed(3)).expand(12, 10)

    def batch_of(rows):
        given = {"advantages": advantages, "sampler_logprobs": rows.logprobs}
        return attrs.evolve(stages.to_batch(rows), rows=None, **given)

    batch = batch_of(sampled)
    plan = stages.mini_batches(experiment, 12, 0)
    objective = PolicyObjective(experiment.policy_loss.component)
    update = PendingUpdate(1, parts.policy, sampled, batch, plan, objective, experiment, 1.0, ranks)
    session = EntropyForecast(every=1).start(SimpleNamespace(experiment=experiment))
    session.measure(sampled, None)
    metrics = session.before_update(update)
    stages.update(parts.policy, batch, plan, objective, experiment, ranks, 1.0)
    metrics |= session.after_update(update)
    session.measure(after, None)
    metrics |= session.before_update(attrs.evolve(update, step=2, rollouts=after, batch=batch_of(after)))
    values = {name: value for name, value in metrics.items() if name.startswith("forecast/")}
    torch.save(values, f"{directory}/{ranks.size}_{ranks.rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
