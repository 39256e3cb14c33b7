"""The stages of a step on their own: which groups train, what the controller steers by, the learning rate."""

import hashlib
import itertools
import math
from types import SimpleNamespace

import attrs
import pytest
import torch
import uncollapse
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.components import Advantages, Rollouts, Scores
from uncollapse.plugins.training.step import stages
from uncollapse.plugins.training.step.batch import Batch
from uncollapse.plugins.training.step.losses import CriticObjective

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
    alone = torch.tensor([[False, True, False]])
    assert stages.sequence_kl(torch.tensor([[9.0, 0.5, 9.0]]), alone) == 0.5  # a row of one token counts
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

    def compute(self, batch):
        return Advantages(torch.ones_like(batch.rewards), torch.ones_like(batch.rewards))


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
    filtered = SimpleNamespace(loss_scaling=settings.pop("scaling"))
    batch = rollouts([0.0, 1, 0, 4], [0, 0, 1, 1])
    result = stages.advantages(
        SimpleNamespace(filter=filtered, **settings),
        Ones(),
        batch,
        stages.credit_inputs(batch),
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


# --- seeds and tasks --------------------------------------------------------------------------------------------------


def test_derived_seeds_are_63_bits_of_a_fixed_hash():
    expected = int.from_bytes(hashlib.sha256(b"(0, 'train', 3)").digest()[:8], "big") >> 1
    assert stages.derived_seed(0, "train", 3) == expected
    assert 2**62 < max(stages.derived_seed(number) for number in range(40)) < 2**63


# --- scoring and updates ----------------------------------------------------------------------------------------------


class Alone:
    """One of ``size`` ranks, which hears of nobody else."""

    def __init__(self, rank=0, size=1):
        self.rank, self.size = rank, size

    def gather(self, value):
        return [value]

    def gather_work(self, work):
        return [work()]


class Recorder:
    """An engine that scores a token by its id, and remembers the rows of every pass."""

    def __init__(self):
        self.passes, self.options = [], []

    def score(self, batch, **options):
        self.passes.append(batch.rows.tolist())
        self.options.append(options)
        return Scores(logprobs=-batch.tokens.float(), values=batch.tokens * 2.0)

    def update(self, micro_batches, objective, lr_scale, **options):
        self.passes.append([batch.rows.tolist() for batch in micro_batches])
        self.options.append(options | {"lr_scale": lr_scale})
        return {"loss": float(len(self.passes)), "grad_norm": 10.0 * len(self.passes)}


def ragged(lengths):
    width = max(lengths)
    real = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    tokens = torch.where(real, torch.arange(1, len(lengths) * width + 1).reshape(len(lengths), width), 0)
    return Batch(tokens=tokens, mask=real, lengths=torch.tensor(lengths), rows=torch.arange(len(lengths)))


def test_rows_without_lengths_are_not_padded():
    collected = attrs.evolve(rollouts([0.0, 1], [0, 0]), lengths=None)
    batch = stages.to_batch(collected)
    assert batch.lengths.tolist() == [3, 3]
    assert batch.rows.tolist() == [0, 1]
    assert stages.to_batch(attrs.evolve(collected, lengths=torch.tensor([2, 3]))).lengths.tolist() == [2, 3]


def test_rows_are_scored_by_length_and_come_back_in_their_places():
    engine, batch = Recorder(), ragged([5, 1, 4, 2, 3])
    scores = stages.score(engine, batch, 2, Alone(), entropy="none")
    assert engine.passes == [[1], [3, 4], [2, 0]]
    assert engine.options == [{"entropy": "none"}] * 3
    assert torch.equal(scores.logprobs, -batch.tokens.float())
    assert torch.equal(scores.values, batch.tokens * 2.0)
    assert scores.entropies is None


def test_packed_rows_are_scored_within_a_budget():
    engine, batch = Recorder(), ragged([5, 1, 4, 2, 3])
    scores = stages.score(engine, batch, 2, Alone(), budget=6)
    assert engine.options == [{"packed": True}] * len(engine.passes)
    assert sorted(itertools.chain(*engine.passes)) == [0, 1, 2, 3, 4]
    assert all(sum(int(batch.lengths[row]) for row in rows) <= 6 for rows in engine.passes)
    assert torch.equal(scores.logprobs, -batch.tokens.float())


@pytest.mark.parametrize(("lengths", "ranks", "size"), [([5, 1, 4, 2, 3], 2, 2), ([3, 1], 3, 2), ([2] * 7, 3, 1)])
def test_ranks_share_the_rows_and_make_equally_many_passes(lengths, ranks, size):
    batch, own, counts = ragged(lengths), [], []
    for rank in range(ranks):
        engine = Recorder()
        scores = stages.score(engine, batch, size, Alone(rank, ranks))
        counts.append(len(engine.passes))
        own.append(scores.logprobs if scores.logprobs is not None else torch.zeros(batch.mask.shape))
        assert all(1 <= len(rows) <= size for rows in engine.passes)
    assert len(set(counts)) == 1
    assert torch.equal(sum(own), -batch.tokens.float())  # each row is somebody's, and nobody else's


@pytest.mark.parametrize("budget", [0, 512])
def test_an_update_makes_the_planned_steps_and_averages_their_metrics(budget):
    engine, batch = Recorder(), ragged([5, 1, 4, 2])
    chosen = experiment(f"trainer.token_budget={budget}", "trainer.micro_batch=1", "trainer.mini_batch=2")
    objective = CriticObjective(0.2)  # which prepares nothing
    metrics = stages.update(engine, batch, [[0, 1], [2, 3], [1, 2]], objective, chosen, Alone(), 0.5, entropy="value")
    assert metrics == {"loss": 2.0, "grad_norm": 20.0}
    packed = {"packed": True} if budget else {}
    assert engine.options == [{"entropy": "value", "lr_scale": 0.5} | packed] * 3
    trained = [sorted(itertools.chain(*micro_batches)) for micro_batches in engine.passes]
    assert trained == [[0, 1], [2, 3], [1, 2]]
    assert all(len(rows) == 1 for micro_batches in engine.passes for rows in micro_batches) or budget


def test_rows_that_do_not_train_in_a_step_have_no_weight():
    batch = stages.weighted(ragged([2, 1, 3]), [0, 2], experiment("trainer.loss_aggregation=seq-mean-token-mean"))
    torch.testing.assert_close(batch.weights, torch.tensor([[0.25, 0.25, 0], [0, 0, 0], [1 / 6, 1 / 6, 1 / 6]]))
