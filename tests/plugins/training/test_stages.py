"""The stages of a step on their own: which groups train, what the controller steers by, the learning rate."""

import math
from types import SimpleNamespace

import attrs
import pytest
import torch
import uncollapse
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.components import Advantages, Rollouts
from uncollapse.plugins.training import stages

MASK = torch.tensor([[True, True, False], [False, False, False], [True, False, True], [True, True, True]])


def rollouts(raw_rewards, groups, entropies=None):
    """Rows of three tokens, one per episode."""
    count = len(raw_rewards)
    mask = torch.ones(count, 3, dtype=torch.bool)
    return Rollouts(
        tokens=torch.zeros(count, 3, dtype=torch.long),
        mask=mask,
        turns=torch.zeros(count, 3, dtype=torch.long),
        logprobs=torch.zeros(count, 3),
        rewards=torch.zeros(count, 3),
        episodes=torch.arange(count),
        groups=torch.tensor(groups),
        raw_rewards_E=torch.tensor(raw_rewards),
        group_ids_P=torch.tensor(groups).unique(),
        lengths=torch.full((count,), 3),
        entropies=None if entropies is None else torch.tensor(entropies)[:, None].expand(count, 3),
    )


def experiment(*overrides):
    return uncollapse.compose("tiny-sokoban", overrides)


@pytest.mark.parametrize(
    ("metric", "kept"),
    [
        ("reward_variance", [False, False, True]),  # std .7, 0, 2.1
        ("reward", [False, True, False]),  # means .5, 4, 1.5
        ("entropy", [True, False, False]),  # means .8, .4, .1
    ],
)
def test_the_filter_ranks_groups_by_the_metric_of_the_experiment(metric, kept):
    collected = rollouts([0.0, 1, 4, 4, 0, 3], [0, 0, 1, 1, 2, 2], entropies=[0.8, 0.8, 0.4, 0.4, 0.1, 0.1])
    chosen = experiment("filter.select=top_k(1)", f"filter.metric={metric}")
    keep_P, metrics = stages.select(chosen, collected)
    assert keep_P.tolist() == kept
    assert metrics["rollout/filter_kept_count"] == 1


def test_a_filter_that_keeps_everything_asks_no_metric():
    collected = rollouts([0.0, 1, 4, 4], [0, 0, 1, 1])  # no entropies: the metric could not be computed
    assert stages.select(experiment("filter.metric=entropy"), collected)[0].tolist() == [True, True]


def test_the_controller_steers_by_the_mean_over_rows_of_their_mean_token_kl():
    kl = torch.tensor([[0.2, 0.4, 99.0], [99.0, 99.0, 99.0], [1.0, 99.0, 3.0], [0.0, 0.0, 0.6]])
    assert stages.sequence_kl(kl, MASK) == pytest.approx((0.3 + 2.0 + 0.2) / 3)  # the second row has no token
    assert stages.sequence_kl(kl, torch.zeros_like(MASK)) == 0.0


def test_kl_in_the_reward_is_paid_by_sampled_tokens_only():
    collected = rollouts([1.0, 0.0], [0, 0])
    collected = attrs.evolve(
        collected, mask=torch.tensor([[True, False, True]] * 2), rewards=torch.tensor([[0.0, 0, 1], [0, 0, 0]])
    )
    paid = stages.kl_in_reward(collected, torch.tensor([[0.1, 9.0, 0.2], [0.0, float("nan"), -0.4]]), 0.5)
    torch.testing.assert_close(paid.rewards, torch.tensor([[-0.05, 0, 0.9], [0, 0, 0.2]]))
    assert paid.raw_rewards_E.tolist() == [1.0, 0.0]


def plan(rows, step, *, size=40, epochs=1, seed=0):
    trainer = SimpleNamespace(mini_batch=size, epochs=epochs)
    return stages.mini_batches(SimpleNamespace(trainer=trainer, seed=seed), rows, step)


COSINE = [1.0, 0.5 + 2**0.5 / 4, 0.5, 0.5 - 2**0.5 / 4]


@pytest.mark.parametrize(
    ("schedule", "warmup", "shares"),
    [
        ("constant", 0, [1.0] * 4),
        ("linear", 0, [1.0, 0.75, 0.5, 0.25]),
        ("cosine", 0, COSINE),
        ("constant", 3, [1 / 3, 2 / 3, 1.0, 1.0]),
        ("linear", 4, [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", 2, [0.5, 1.0, *COSINE]),
        ("linear", 9, [1 / 9, 2 / 9, 3 / 9]),  # a warm-up longer than the run
    ],
)
def test_learning_rate_schedules_by_hand(schedule, warmup, shares):
    steps = len(shares)
    assert [stages.lr_scale(schedule, warmup, step, steps) for step in range(steps)] == pytest.approx(shares, abs=1e-6)


@given(st.sampled_from(["constant", "linear", "cosine"]), st.integers(0, 20), st.integers(1, 60))
def test_a_schedule_rises_to_one_and_then_never_rises(schedule, warmup, steps):
    shares = [stages.lr_scale(schedule, warmup, step, steps) for step in range(steps)]
    rising, falling = shares[:warmup], shares[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert all(0 < share <= 1 for share in shares)
    assert not falling or falling[0] == 1


class Ones:
    """An estimator whose advantages and returns are all one."""

    def compute(self, *, rewards, **others):
        return Advantages(torch.ones_like(rewards), torch.ones_like(rewards))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1.0, 1.0, 1.0, 1.0]),
        ({"scaling": "linear"}, [0.25] * 4),
        ({"scaling": "sqrt"}, [0.5] * 4),
        ({"soft_advantage_reweight": True}, [0.25, 0.25, 1.0, 1.0]),  # std .7071 and 2.828
        ({"zero_task_advantage": True}, [0.0] * 4),
    ],
)
def test_what_scales_the_policys_advantages_leaves_the_returns_alone(settings, expected):
    settings = {"scaling": "none", "soft_advantage_reweight": False, "zero_task_advantage": False} | settings
    named = SimpleNamespace(component=Ones())
    filtered = SimpleNamespace(loss_scaling=settings.pop("scaling"))
    result = stages.advantages(
        SimpleNamespace(advantage=named, filter=filtered, **settings),
        rollouts([0.0, 1, 0, 4], [0, 0, 1, 1]),
        None,
        None,
        kept_ratio=0.25,
    )
    torch.testing.assert_close(result.advantages[:, 0], torch.tensor(expected), atol=1e-5, rtol=0)
    assert result.returns.tolist() == [[1.0] * 3] * 4


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.integers(0, 5))
def test_every_epoch_trains_every_row_once_in_the_fewest_equal_parts(rows, size, epochs, step):
    optimizer_steps = plan(rows, step, size=size, epochs=epochs)
    per_epoch = math.ceil(rows / size)
    assert len(optimizer_steps) == epochs * per_epoch
    for epoch in range(epochs):
        parts = optimizer_steps[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(row for part in parts for row in part) == list(range(rows))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert max(map(len, parts)) <= size


def test_rows_are_shuffled_anew_in_every_epoch_step_and_seed_and_the_same_when_asked_again():
    first, second = plan(40, step=0, epochs=2)
    assert [first, second] == plan(40, step=0, epochs=2)
    others = [second, *plan(40, step=1), *plan(40, step=0, seed=1)]
    assert all(first != other for other in others)
    assert first != sorted(first)


def test_masked_mean_is_zero_where_nothing_counts():
    assert stages.masked_mean(torch.tensor([1.0, 2.0, 90.0]), torch.tensor([True, True, False])) == 1.5
    assert stages.masked_mean(torch.tensor([1.0]), torch.tensor([False])) == 0.0
