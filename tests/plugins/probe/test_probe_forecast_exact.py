"""What ``entropy_forecast`` predicts, against the exact entropy of a policy whose sequences are enumerated."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.estimators.aggregation import TokenMean
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.probe.estimation.passes import Passes, inner, trained
from uncollapse.plugins.probe.forecast.change import (
    MOST_WEIGHT,
    Change,
    degrees_of_freedom,
    entropy_level,
    error,
    predicted_change,
)
from uncollapse.plugins.probe.forecast.forecast import predict
from uncollapse.plugins.probe.forecast.response import Before
from uncollapse.plugins.training.step.losses import PolicyObjective
from uncollapse.plugins.training.step.pending import PendingUpdate
from uncollapse.plugins.training.step.stages import to_batch

sys.path.insert(0, str(Path(__file__).parent))
import exact_model as exact

UNIT = "per_token_ratio"
GROUPS, SIZE, LR = 16, 4, 1e-2
UNLIKELY = -4.3
"""Nats: a sequence of a lower log-prob fails. Most groups have none."""


# --- one update of the tiny policy ------------------------------------------------------------------------------------


def rewarded(rollouts, base):
    """0 for unlikely sequences, 1 else: rewards that go with log-probs, as where a policy has learnt."""
    return attrs.evolve(rollouts, raw_rewards_E=(base["logprobs"].sum(1) > UNLIKELY).float())


def pending(policy, rollouts, steps=2):
    """An update of ``steps`` optimizer steps that share the rows, with advantages as in GRPO without the deviation."""
    rewards = rollouts.raw_rewards_E.reshape(GROUPS, SIZE)
    advantages = (rewards - rewards.mean(1, keepdim=True)).reshape(-1, 1).expand(rollouts.mask.shape)
    batch = attrs.evolve(to_batch(rollouts), advantages=advantages.clone(), sampler_logprobs=rollouts.logprobs)
    trainer = SimpleNamespace(lr=LR, grad_clip=0.0, micro_batch=64, score_batch=64, token_budget=0)
    trainer.loss_aggregation = SimpleNamespace(component=TokenMean())
    # a second moment of the size of these gradients, and little momentum: it is the batch that moves the policy
    state = {
        name: {"step": 200.0, "exp_avg": torch.full_like(p, 1e-3), "exp_avg_sq": torch.full_like(p, 4e-4)}
        for name, p in trained(policy).items()
    }
    saved = {"state": state, "master": {}, "param_groups": [{"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.01}]}
    return PendingUpdate(
        step=1,
        policy=SimpleNamespace(module=policy, live_optimizer_state=lambda: saved),
        rollouts=rollouts,
        batch=batch,
        optimizer_steps=[list(range(k, len(batch), steps)) for k in range(steps)],
        objective=PolicyObjective(Ppo()),
        experiment=SimpleNamespace(
            trainer=trainer,
            rollout=SimpleNamespace(max_context=10),
            model=SimpleNamespace(gradient_checkpointing=False),
        ),
        lr_scale=1.0,
        ranks=exact.ONE,
    )


def make(update):
    """The update, by torch's own AdamW on the policy itself, each optimizer step at the parameters of its time."""
    policy, saved = update.policy.module, update.policy.live_optimizer_state()
    parameters = trained(policy)
    optimizer = torch.optim.AdamW(parameters.values(), lr=LR, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01)
    for name, parameter in parameters.items():
        optimizer.state[parameter] = {
            key: value.clone() if isinstance(value, torch.Tensor) else torch.tensor(float(value))
            for key, value in saved["state"][name].items()
        }
    old = Passes(policy, update.batch, 64, exact.ONE).forward()["logprobs"]
    for rows in update.optimizer_steps:
        batch = attrs.evolve(update.weighted(rows), old_logprobs=old)
        optimizer.zero_grad()
        scores = policy(batch, entropy="gradient")
        update.objective.tokens(SimpleNamespace(values=None, **scores), batch)[0].sum().backward()
        optimizer.step()


def base_of(policy, rollouts):
    return Passes(policy, to_batch(rollouts), 64, exact.ONE).forward()


EVERY_SEQUENCE = exact.rollouts_of([(prompt, s) for prompt in range(exact.PROMPTS) for s in exact.SEQUENCES])


def exact_entropy(policy):
    """Per token, from the probabilities of all sequences, in one pass."""
    scores = base_of(policy, EVERY_SEQUENCE)
    p = scores["logprobs"].sum(1).exp()
    return float((p * scores["entropies"].sum(1)).sum() / (p * EVERY_SEQUENCE.mask.sum(1)).sum())


@pytest.fixture(scope="module")
def repeated():
    """200 updates from one policy: the forecast, that without anything taken out of it, and the exact change."""
    policy, generator = exact.ExactPolicy(4, size=8), torch.Generator().manual_seed(8)
    start = {name: p.detach().clone() for name, p in trained(policy).items()}
    before_h = exact_entropy(policy)
    assert before_h == pytest.approx(exact.entropy(policy, UNIT), abs=1e-12)
    found = []
    for _ in range(200):
        sampled = exact.sample(policy, GROUPS, SIZE, generator)
        base = base_of(policy, sampled)
        rollouts = rewarded(sampled, base)
        update = pending(policy, rollouts)
        before = Before.of(update, rollouts, base, folds=4)
        make(update)
        change = predict(before).change
        uncorrected = attrs.evolve(before, corrections=[{} for _ in before.corrections])
        spread = float((rollouts.raw_rewards_E.reshape(GROUPS, SIZE).std(1) > 0).double().mean())
        true = exact_entropy(policy) - before_h
        found.append((change.value, change.se, predict(uncorrected).change.value, true, spread))
        with torch.no_grad():
            for name, parameter in trained(policy).items():
                parameter.copy_(start[name])
    return torch.tensor(found, dtype=torch.float64).unbind(1)


def test_the_forecast_is_unbiased_where_most_groups_have_no_spread(repeated):
    predicted, _, uncorrected, true, spread = repeated
    assert float(spread.mean()) < 0.4
    difference = predicted - true
    assert abs(float(difference.mean())) < 3 * float(difference.std()) / len(true) ** 0.5
    # groups that speak of what their own training has done to the update say that the entropy falls
    own = uncorrected - true
    assert float(own.mean()) < -6 * float(own.std()) / len(true) ** 0.5


def test_the_errors_of_the_forecast_are_those_that_it_makes(repeated):
    predicted, se, _, true, _ = repeated
    z = (predicted - true) / se
    assert abs(float(z.mean())) < 0.2
    assert 0.85 < float(z.std()) < 1.15


# --- the statistic ----------------------------------------------------------------------------------------------------


def moved(policy, rollouts, v, eta):
    """Tables before, and the changes along a displacement that does not know the rollouts."""
    base = base_of(policy, rollouts)
    after = Passes(policy, to_batch(rollouts), 64, exact.ONE).forward(v, eta)
    return base | {f"{name}_rate": after[name] - base[name] for name in base}


@pytest.fixture(scope="module")
def whole():
    """A policy, the sample that is its distribution with each row a group of its own, and a displacement."""
    policy = exact.ExactPolicy(2)
    rollouts = exact.enumeration(policy)
    rows = torch.arange(len(rollouts.tokens))
    return policy, attrs.evolve(rollouts, groups=rows, group_ids_P=rows), exact.direction_of(policy)


def test_it_is_the_exact_derivative_for_small_steps(whole):
    policy, rollouts, v = whole
    slope = inner(exact.entropy_gradient(policy, UNIT), v)
    assert abs(slope) > 1e-2
    found = predicted_change(moved(policy, rollouts, v, 1e-6), rollouts).value / 1e-6
    assert found == pytest.approx(slope, rel=2e-3)  # the entropy of the others is not that of all


def test_it_follows_a_large_step_better_than_the_derivative(whole):
    policy, rollouts, v = whole
    slope = inner(exact.entropy_gradient(policy, UNIT), v)
    for eta in (0.2, -0.2):
        true = exact.entropy(policy, UNIT, "rb", v, eta) - exact.entropy(policy, UNIT)
        assert abs(eta * slope - true) > 0.02 * abs(true)
        assert abs(predicted_change(moved(policy, rollouts, v, eta), rollouts).value - true) < abs(eta * slope - true)


def test_by_hand_on_two_groups():
    """Groups of one episode: tokens with entropies 1, 2 and 3, 5; h of the other is 4 and 1.5."""
    rollouts = exact.rollouts_of([(0, (1, 0)), (0, (2, 0))])
    T = rollouts.tokens.shape[1]

    def table(*rows):
        return torch.tensor([[0.0, *row, *[0.0] * (T - 3)] for row in rows], dtype=torch.float64)

    w = math.log(1.5)
    tables = {
        "logprobs": table((-1, -1), (-1, -1)),
        "entropies": table((1, 2), (3, 5)),
        "logprobs_rate": table((w, 0.7), (-w, 9.0)),  # nothing comes after the last tokens
        "entropies_rate": table((0.1, 0.2), (-0.1, 0.4)),
    }
    found = predicted_change(tables, rollouts)
    # to come after the first tokens: 2 and 5, the others' 5 and 2; one token each, less one of the others is none
    assert found.value == pytest.approx((0.6 + 0.5 * (2 - 5) + (1 / 1.5 - 1) * (5 - 2)) / 4)
    # no change of the lengths, so that an influence is a - value * T over all tokens
    a = torch.tensor([0.3 - 1.5, 0.3 - 1.0], dtype=torch.float64)
    torch.testing.assert_close(found.influence_G, (a - found.value * 2) / 4)
    level = entropy_level(tables, rollouts)
    assert level.value == pytest.approx(11 / 4)
    torch.testing.assert_close(level.influence_G, torch.tensor([3 - 5.5, 8 - 5.5], dtype=torch.float64) / 4)


def test_a_token_counts_so_many_times_at_most(whole):
    policy, rollouts, v = whole
    tables = moved(policy, rollouts, v, 0.1)
    place = int(tables["entropies"][:, 1].argmin())
    found = []
    for weight in (MOST_WEIGHT, 1e6):
        tables["logprobs_rate"][place, 1] = math.log(weight)
        found.append(predicted_change(tables, rollouts).value)
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_neither_the_order_of_rows_nor_the_names_of_groups_matter(seed):
    policy, generator = exact.ExactPolicy(1), torch.Generator().manual_seed(seed)
    rollouts = exact.sample(policy, 5, 3, generator)
    tables = moved(policy, rollouts, exact.direction_of(policy, seed), 0.1)
    order = torch.randperm(len(rollouts.tokens), generator=generator)
    other = attrs.evolve(
        rollouts,
        **{name: getattr(rollouts, name)[order] for name in ("tokens", "mask", "turns", "logprobs", "rewards")},
        episodes=rollouts.episodes[order],
        groups=rollouts.groups[order],
        lengths=rollouts.lengths[order],
    )
    named = attrs.evolve(rollouts, groups=7 * rollouts.groups + 3, group_ids_P=7 * rollouts.group_ids_P + 3)
    one = predicted_change(tables, rollouts)
    for same in (
        predicted_change({name: table[order] for name, table in tables.items()}, other),
        predicted_change(tables, named),
    ):
        assert same.value == pytest.approx(one.value, rel=1e-9, abs=1e-12)
        assert same.se == pytest.approx(one.se, rel=1e-9)
    still = {name: torch.zeros_like(table) if name.endswith("_rate") else table for name, table in tables.items()}
    assert predicted_change(still, rollouts).value == 0
    assert math.isnan(predicted_change(still, rollouts).se)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("influence", "degrees"),
    [
        ([1.0, -1.0, 1.0, -1.0], 3),  # no kurtosis at all: no more than of a mean of four
        ([1.0, 0.0, 0.0, 0.0], 2 / (1 - 1 / 4)),
        ([3.0, -1.0, -1.0, -1.0], 3),  # 84 / 144 - 1 / 4 = 1 / 3, of which 2 is 6
        ([5.0, -1.0, -1.0, -1.0, -1.0, -1.0], 2 / (630 / 900 - 1 / 6)),
    ],
)
def test_degrees_of_freedom(influence, degrees):
    assert degrees_of_freedom(torch.tensor(influence, dtype=torch.float64)) == pytest.approx(degrees)


def test_the_error_is_widened_for_few_groups():
    influence = torch.tensor([5.0, -1, -1, -1, -1, -1], dtype=torch.float64)
    degrees = 2 / (630 / 900 - 1 / 6)
    assert error(influence) == pytest.approx(math.sqrt(6 / 5 * 30 * degrees / (degrees - 2)))
    assert error(torch.tensor([1.0, -1.0], dtype=torch.float64)) == pytest.approx(math.sqrt(2 * 2 * 3 / 1))
    assert math.isnan(error(torch.zeros(4, dtype=torch.float64)))
    assert math.isnan(error(torch.ones(1, dtype=torch.float64)))
    assert Change(1.0, influence).se == error(influence)


@pytest.mark.parametrize("count", [6, 8, 16, 32])
def test_values_over_their_errors_have_deviation_one(count):
    draws = torch.randn(4000, count, generator=torch.Generator().manual_seed(count), dtype=torch.float64) / count
    z = torch.tensor([float(x.sum()) / error(x - x.mean()) for x in draws])
    assert float(z.std()) == pytest.approx(1, abs=0.08)
