"""What a step samples: tasks in their order, rounds with noise of their own, groups as the batch sampler collects."""

import pytest
import uncollapse
from uncollapse.plugins.rollout.episode import Episode, Turn
from uncollapse.plugins.rollout.parsing import Answer
from uncollapse.plugins.training.step import sampling
from uncollapse.plugins.training.step.stages import derived_seed


def episode(seed, member, reward=0.0, success=False):
    turn = Turn((1, 2), (3,), (-0.5,), "eos", "?", "!", Answer("", ("Up",), 1), 1, reward, 0.0)
    return Episode(seed, member, "system", (turn,), "success" if success else "done", {})


class Alone:
    """One of ``size`` ranks, which hears of nobody else."""

    def __init__(self, rank=0, size=1):
        self.rank, self.size = rank, size

    def gather(self, value):
        return [value]

    def gather_work(self, work):
        return [work()]


@pytest.fixture
def asked(monkeypatch):
    """What the sampler asks to be played: (group seeds, group size, seed, temperature)."""
    calls = []

    def collect(environment, rollout, engine, template, *, seeds, group_size, seed, temperature):
        calls.append((list(seeds), group_size, seed, temperature))
        return [episode(group, member, reward=group / 2) for group in seeds for member in range(group_size)]

    monkeypatch.setattr(sampling, "collect", collect)
    return calls


def sampler(ranks, *overrides):
    settings = ("rollout.seed=500", "rollout.groups=4", "rollout.group_size=8", *overrides)
    return sampling.Sampler(uncollapse.compose("tiny-sokoban", settings), engine=None, template=None, ranks=ranks)


def test_every_step_plays_the_next_tasks(asked):
    played = sampler(Alone())
    played.train(0)
    groups = played.train(1)
    rewards_P = played.greedy_rewards(groups)
    assert asked == [
        ([500, 501, 502, 503], 8, derived_seed(0, "train", 0), 1.0),
        ([504, 505, 506, 507], 8, derived_seed(0, "train", 1), 1.0),
        ([504, 505, 506, 507], 1, 0, 0.0),
    ]
    assert rewards_P.tolist() == [252.0, 252.5, 253.0, 253.5]
    assert [(group.seed, len(group.episodes), group.step) for group in groups] == [
        (seed, 8, 1) for seed in range(504, 508)
    ]


def test_every_validation_plays_the_same_tasks_with_the_same_noise(asked):
    played = sampler(Alone(), "validation={seed: 70, groups: 3, group_size: 2, temperature: 0.25}")
    played.validate(played.environment)
    played.validate(played.environment)
    assert asked == [([70, 71, 72], 2, derived_seed(0, "validation"), 0.25)] * 2
