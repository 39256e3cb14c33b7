"""What every estimator must satisfy on any batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.core.components import CreditInputs
from uncollapse.estimators.advantage.bi_level_gae import BiLevelGae
from uncollapse.estimators.advantage.gae import Gae
from uncollapse.estimators.advantage.outcome import DrGrpo, Grpo, Opo, Rloo
from uncollapse.estimators.advantage.reinforce import ReinforcePlusPlus, ReinforcePlusPlusBaseline
from uncollapse.estimators.advantage.remax import Remax
from uncollapse.estimators.advantage.sampled_tokens import discounted_sums, whiten

ESTIMATORS = [
    Gae(),
    Gae(gamma=0.99, lam=0.95),
    BiLevelGae(gamma=0.9, lam=0.8),
    Grpo(),
    DrGrpo(),
    Rloo(),
    Opo(),
    ReinforcePlusPlus(),
    ReinforcePlusPlus(gamma=0.9),
    ReinforcePlusPlusBaseline(),
    Remax(),
]
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
PER_TOKEN = {"rewards": 0.0, "mask": False, "values": 0.0, "turns": -1}


@st.composite
def batches(draw):
    """Rows of several turns with observations before, between and after them; groups and shared episodes."""
    B, T = draw(st.integers(2, 6)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    mask = torch.rand(B, T, generator=generator) < draw(st.sampled_from([0.3, 0.7, 1.0]))
    starts = mask & ~torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    episodes = torch.randint(B, (B,), generator=generator)
    greedy = torch.randn(B, generator=generator)
    # the rows of an episode all carry the episode's reward on their last sampled token, or each has rewards of its own
    score_E = torch.randint(-2, 3, (B,), generator=generator) / 2
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    if draw(st.booleans()):
        rewards = torch.where(last, score_E[episodes][:, None], 0.0)
    else:
        rewards = torch.randn(B, T, generator=generator) * mask
    return {
        "rewards": rewards,
        "mask": mask,
        "groups": (episodes % 2) * 7,
        "values": torch.randn(B, T, generator=generator),
        "turns": torch.where(mask, starts.cumsum(1) - 1, -1),
        "episodes": episodes,
        "greedy_rewards": greedy[episodes],
    }


def assert_same(actual, expected):
    for name in ("advantages", "returns"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), atol=1e-5, rtol=1e-4)


@every_estimator
@settings(deadline=None, max_examples=40)
@given(batch=batches(), data=st.data())
def test_inserted_observation_tokens_change_nothing(estimator, batch, data):
    B, T = batch["mask"].shape
    expected = estimator.compute(CreditInputs(**batch))
    k = data.draw(st.integers(1, 5))
    # each row gets its k observations at places of its own
    kept = torch.stack([
        torch.tensor(sorted(data.draw(st.permutations(range(T + k)))[:T])) for _ in range(B)
    ])  # fmt: skip
    noise = data.draw(st.sampled_from([-50.0, 3.0, torch.inf, torch.nan]))
    longer = dict(batch)
    for name, blank in {**PER_TOKEN, "values": noise}.items():
        longer[name] = torch.full((B, T + k), blank, dtype=batch[name].dtype).scatter(1, kept, batch[name])
    actual = estimator.compute(CreditInputs(**longer))
    observed = torch.ones(B, T + k, dtype=torch.bool).scatter(1, kept, False)
    assert not actual.advantages[observed].any()
    assert not actual.returns[observed].any()
    assert torch.equal(actual.advantages.gather(1, kept), expected.advantages)
    assert torch.equal(actual.returns.gather(1, kept), expected.returns)


@every_estimator
@settings(deadline=None, max_examples=25)
@given(batch=batches(), data=st.data())
def test_rows_may_come_in_any_order(estimator, batch, data):
    order = torch.tensor(data.draw(st.permutations(range(len(batch["mask"])))))
    expected = estimator.compute(CreditInputs(**batch))
    actual = estimator.compute(CreditInputs(**{name: value[order] for name, value in batch.items()}))
    inverse = order.argsort()
    assert_same(type(actual)(actual.advantages[inverse], actual.returns[inverse]), expected)


@every_estimator
@settings(deadline=None, max_examples=25)
@given(batch=batches(), width=st.integers(1, 70))
def test_right_padding_changes_nothing(estimator, batch, width):
    expected = estimator.compute(CreditInputs(**batch))
    padded = dict(batch)
    for name, blank in PER_TOKEN.items():
        padded[name] = torch.nn.functional.pad(batch[name], (0, width), value=blank)
    actual = estimator.compute(CreditInputs(**padded))
    assert not actual.advantages[:, -width:].any()
    assert torch.equal(actual.advantages[:, :-width], expected.advantages)
    assert torch.equal(actual.returns[:, :-width], expected.returns)


@every_estimator
@settings(deadline=None, max_examples=25)
@given(batch=batches(), ids=st.lists(st.integers(-(2**40), 2**40), min_size=2, max_size=2, unique=True))
def test_group_ids_are_only_names(estimator, batch, ids):
    renamed = {**batch, "groups": torch.tensor(ids)[(batch["groups"] == 7).long()]}
    assert_same(estimator.compute(CreditInputs(**renamed)), estimator.compute(CreditInputs(**batch)))


@every_estimator
@settings(deadline=None, max_examples=25)
@given(batch=batches())
def test_zero_off_the_mask_and_finite_in_the_rewards_precision(estimator, batch):
    for dtype in (torch.float32, torch.float64):
        result = estimator.compute(CreditInputs(**{**batch, "rewards": batch["rewards"].to(dtype)}))
        for value in (result.advantages, result.returns):
            assert value.dtype == dtype
            assert value.isfinite().all()
            assert not value[~batch["mask"]].any()


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=5),
    decay=st.sampled_from([0.0, 1e-3, 0.5, 0.9405, 0.999, 1.0]),
    seed=st.integers(0, 1000),
)
def test_discounted_sums_match_the_recursion(lengths, decay, seed):
    x = torch.randn(sum(lengths), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ends = set(torch.tensor(lengths).cumsum(0).tolist())
    expected, carry = torch.zeros_like(x), 0.0
    for t in reversed(range(len(x))):
        carry = float(x[t]) + (0.0 if t + 1 in ends else decay * carry)
        expected[t] = carry
    torch.testing.assert_close(discounted_sums(x, torch.tensor(lengths), decay), expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.99, 0.95), (1.0, 0.5)])
def test_long_rows_in_float32_match_the_recursion_in_float64(gamma, lam):
    generator = torch.Generator().manual_seed(0)
    B, T = 2, 5000  # two levels of blocks
    mask = torch.rand(B, T, generator=generator) < 0.9
    rewards = torch.randn(B, T, generator=generator) * mask
    values = torch.randn(B, T, generator=generator)
    expected = torch.zeros(B, T, dtype=torch.float64)
    for b in range(B):
        advantage = next_value = 0.0
        for t in reversed(mask[b].nonzero().flatten().tolist()):
            advantage = float(rewards[b, t]) + gamma * next_value - float(values[b, t]) + gamma * lam * advantage
            next_value = float(values[b, t])
            expected[b, t] = advantage
    result = Gae(gamma, lam, whiten=False).compute(
        CreditInputs(rewards=rewards, mask=mask, groups=torch.zeros(B, dtype=torch.long), values=values)
    )
    torch.testing.assert_close(result.advantages, expected.float(), atol=1e-6, rtol=1e-6)


@given(x=st.lists(st.floats(-100, 100), min_size=2, max_size=30).filter(lambda x: max(x) - min(x) > 0.1))
def test_whitened_values_have_mean_zero_and_variance_one(x):
    whitened = whiten(torch.tensor(x, dtype=torch.float64))
    assert abs(float(whitened.mean())) < 1e-9
    assert abs(float(whitened.var(correction=1)) - 1) < 1e-3


def test_whitening_adds_a_small_number_to_the_variance():
    x = torch.tensor([0.0, 2e-4], dtype=torch.float64)  # variance 2e-8
    assert whiten(x).tolist() == pytest.approx([-1e-4 / 3e-8**0.5, 1e-4 / 3e-8**0.5])


def test_equal_values_are_whitened_to_exactly_zero():
    for n in range(1, 40):  # for some of these, 0.1 differs from the computed mean
        assert not whiten(torch.full((n,), 0.1, dtype=torch.float64)).any()
