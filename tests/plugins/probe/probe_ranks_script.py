"""Run as one of several ranks: everything that one probe can compute; every rank writes what it got."""

import json
import sys
from pathlib import Path

import attrs
import torch
from uncollapse.core.compose.plain_data import plain
from uncollapse.core.registry import registry
from uncollapse.plugins.probe.probe import OfflineEntropyProbe
from uncollapse.plugins.training.processes.ranks import start_ranks


def settings(checkpoint, **changes):
    config = {
        "checkpoint": {"checkpoint_path": str(checkpoint)},
        "batch_config": {"environment": "bandit", "B_E": 7, "B_U": 3, "G": 4, "G_E": 2, "rollout_batch_size": 6},
        "rollout": {"max_turns": 1, "max_context": 600},
        "generation": {"max_new_tokens": 6},
        "probe_rework": {
            "compute_conditional_variance": True,
            "compute_vx_vy_variance": True,
            "master_seed": 5,
            "checks": "full",
        },
        "policy_gradient": {"kl": "k3", "kl_coef": 0.1, "entropy_coeff": 0.01, "max_grad_norm": 0.01},
        "importance": {"enabled": True, "symmetric": True, "etas": [1e-2, 2e-2]},
        "variance": ["deriv_delta_reward_to_go", "jvp_shard_se", "cv_batch_se", "gns", "snis_jackknife", "bootstrap"],
        "memory_config": {"microbatch_size": 3},
        "learning_rate": 1e-2,
    }
    return {**config, **changes}


def rewarded(sample):
    """A random policy earns nothing: here every response earns what its tokens add up to, modulo 4."""
    rollouts = sample.rollouts
    sums = torch.zeros(len(rollouts.raw_rewards_E)).index_add(
        0, rollouts.episodes, (rollouts.tokens * rollouts.mask).sum(1).float()
    )
    earned = sums % 4
    last = rollouts.mask & (rollouts.mask.flip(1).cumsum(1).flip(1) == 1)
    rewards = torch.where(last, earned[rollouts.episodes][:, None], 0.0)
    return attrs.evolve(sample, rollouts=attrs.evolve(rollouts, raw_rewards_E=earned, rewards=rewards))


def prepared(checkpoint, ranks, **changes):
    """A probe whose update batch has rewards, and its session."""
    probe = OfflineEntropyProbe(settings(checkpoint, **changes), ranks)
    session = probe.session()
    draw = session.draw_U
    session.draw_U = lambda *names, **options: rewarded(draw(*names, **options))
    return probe, session


def probed(checkpoint, ranks, **changes):
    return prepared(checkpoint, ranks, **changes)[0].run_mixed_probe()


if __name__ == "__main__":
    torch.set_num_threads(1)
    registry().trusts_runs = True  # the run may name plugin files that other tests have loaded
    ranks = start_ranks()
    found = probed(sys.argv[1], ranks)
    Path(sys.argv[2], f"{ranks.rank}_of_{ranks.size}.json").write_text(json.dumps(plain(found)))
