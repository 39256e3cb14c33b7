"""Batches of one row per score, and the advantages of their rows."""

import torch
from uncollapse.core.components import CreditInputs


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=atol, rtol=0)


def rows(scores, lengths=None, width=None):
    """One row per score, the score on its last sampled token."""
    lengths = lengths or [3] * len(scores)
    width = width or max(lengths)
    mask = torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]
    rewards = torch.zeros(len(scores), width)
    rewards[torch.arange(len(scores)), torch.tensor(lengths) - 1] = torch.tensor(scores)
    return {"rewards": rewards, "mask": mask}


def per_row(estimator, scores, groups, lengths=None, episodes=None):
    """[B]: the advantage of each row, checked to be the same on all of its sampled tokens and 0 elsewhere."""
    batch = rows(scores, lengths)
    episodes = None if episodes is None else torch.tensor(episodes)
    advantages = estimator.compute(CreditInputs(**batch, groups=torch.tensor(groups), episodes=episodes)).advantages
    assert torch.equal(advantages, torch.where(batch["mask"], advantages[:, :1], 0.0))
    return advantages[:, 0]
