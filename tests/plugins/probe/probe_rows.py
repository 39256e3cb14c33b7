"""Rollouts of several rows and turns to a sequence, in an order that is not that of the episodes."""

import torch
from uncollapse.core.components import Rollouts

# episodes of 1 to 6 tokens; episode 2 has two rows, its later turn first
EPISODES = torch.tensor([1, 2, 0, 2, 3, 4])
TURNS = torch.tensor(
    [
        [-1, 0, 0, -1, 1],
        [-1, 2, 2, 2, -1],
        [-1, 0, -1, -1, -1],
        [-1, 0, 0, -1, 1],
        [-1, 0, 0, 0, 0],
        [-1, 0, 0, 2, 2],
    ]
)
MASK = TURNS >= 0
LENGTHS = 1, 3, 6, 4, 4
GROUPS_E = torch.tensor([30, 4, 4, 30, 17])
ROLLOUTS = Rollouts(
    tokens=torch.zeros(MASK.shape, dtype=torch.long),
    mask=MASK,
    turns=TURNS,
    logprobs=torch.zeros(MASK.shape),
    rewards=torch.zeros(MASK.shape),
    episodes=EPISODES,
    groups=GROUPS_E[EPISODES],
    raw_rewards_E=torch.zeros(5),
    group_ids_P=torch.tensor([30, 4, 17]),
)


def tables(seed=0):
    generator = torch.Generator().manual_seed(seed)
    names = ("logprobs", "entropies", "logprobs_rate", "entropies_rate")
    return {name: torch.randn(MASK.shape, generator=generator, dtype=torch.float64) for name in names}


def tokens_of(episode):
    """(row, column) of each token, as they were sampled."""
    rows, columns = MASK.shape
    places = [
        (int(TURNS[b, t]), b, t) for b in range(rows) for t in range(columns) if EPISODES[b] == episode and MASK[b, t]
    ]
    return [(b, t) for _, b, t in sorted(places)]
