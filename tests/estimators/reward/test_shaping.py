"""What reward shaping makes of rewards, by hand."""

import math
from types import SimpleNamespace

import attrs
import pytest
import torch
import uncollapse
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.compose.inner import named_of
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.estimators.reward.lengths import Length, Overlong
from uncollapse.estimators.reward.shaping import Clip, NoShaping
from uncollapse.testing import samples


def shaped(rule, rewards, lengths=None, turns=1, max_tokens=100):
    """Shaped rewards of episodes that differ in what is given."""
    rewards_E = torch.tensor(rewards, dtype=torch.float32)
    count = len(rewards_E)
    inputs = attrs.evolve(
        samples.rows_of_shaping(samples.shaping_inputs(), torch.zeros(count, dtype=torch.long)),
        rewards_E=rewards_E,
        lengths_E=torch.tensor(lengths if lengths is not None else [1] * count),
        turns_E=torch.tensor(turns if isinstance(turns, list) else [turns] * count),
        max_tokens=max_tokens,
    )
    rule = named_of("reward_shaping", rule, "reward.shaping").component if isinstance(rule, str) else rule
    return rule.shape(inputs).tolist()


def test_no_shaping_leaves_rewards_and_is_never_asked():
    inputs = samples.shaping_inputs()
    shaped_E = NoShaping().shape(inputs)
    assert torch.equal(shaped_E, inputs.rewards_E)
    assert shaped_E is not inputs.rewards_E
    shaping = registry().create("reward_shaping", "none")
    assert shaping == NoShaping()
    assert shaping.idle
    assert shaping.needs == frozenset()


@pytest.mark.parametrize(
    ("spelled", "lengths", "expected"),
    [
        # 100 tokens, of which the last 20 cost up to 1
        ("overlong", [1, 80, 81, 90, 100, 120], [2, 2, 1.95, 1.5, 1, 1]),
        ("overlong(40, penalty=0.5)", [60, 70, 100], [2, 1.875, 1.5]),
        ("overlong(100)", [0, 25, 100], [2, 1.75, 1]),
        ("overlong(limit=50)", [40, 45, 50, 100], [2, 1.5, 1, 1]),
        ("length", [0, 1000], [2, 1.7]),
        ("length(0.5, free=2)", [1, 2, 3, 10], [2, 2, 1.5, -2]),
    ],
)
def test_what_long_episodes_cost(spelled, lengths, expected):
    assert shaped(spelled, [2.0] * len(lengths), lengths) == pytest.approx(expected, abs=1e-6)


def test_overlong_at_the_published_lengths():
    lengths = [16384, 16385, 18432, 20480]
    rewards = shaped(Overlong(4096), [1.0, 1.0, 1.0, -1.0], lengths, max_tokens=20480)
    assert rewards == pytest.approx([1.0, 1 - 1 / 4096, 0.5, -2.0], abs=1e-6)
    assert shaped(Overlong(), [1.0] * 4, lengths, max_tokens=20480) == shaped(
        Overlong(4096), [1.0] * 4, lengths, 1, 20480
    )


def test_the_limit_of_an_episode_grows_with_its_turns():
    assert shaped(Overlong(), [1.0] * 3, [180, 180, 180], [1, 2, 3]) == pytest.approx([0.0, 0.5, 1.0])


def test_clip_holds_both_sides():
    assert shaped("clip", [-3, -1, -0.25, 0.5, 7]) == [-1, -1, -0.25, 0.5, 1]
    assert shaped("clip(0, .inf)", [-3, 7]) == [0, 7]


REWARDS = st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=8)


@given(REWARDS, st.data())
def test_length_never_pays_and_longer_is_never_better(rewards, data):
    lengths = data.draw(st.lists(st.integers(0, 300), min_size=len(rewards), max_size=len(rewards)))
    more = [length + data.draw(st.integers(0, 50)) for length in lengths]
    for rule in (Overlong(30, 0.5), Overlong(), Length(0.01, 20)):
        short, long = shaped(rule, rewards, lengths), shaped(rule, rewards, more)
        assert all(a >= b for a, b in zip(short, long, strict=True))
        assert all(a <= b for a, b in zip(short, rewards, strict=True))
    bounded = shaped(Overlong(30, 0.5), rewards, lengths)
    assert all(a >= b - 0.5 - 1e-5 for a, b in zip(bounded, rewards, strict=True))


@given(REWARDS)
def test_clipping_twice_is_clipping_once_and_keeps_the_order(rewards):
    once = shaped(Clip(-1.5, 2.0), rewards)
    assert shaped(Clip(-1.5, 2.0), once) == once
    assert sorted(once) == [min(max(reward, -1.5), 2.0) for reward in sorted(rewards)]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Overlong(0), "buffer"),
        (lambda: Overlong(51, limit=50), "buffer must be at most the limit, 50 tokens, got 51"),
        (lambda: Overlong(penalty=-1), "penalty"),
        (lambda: Overlong(limit=0), "limit"),
        (lambda: Length(0), "cost"),
        (lambda: Length(math.inf), "cost"),
        (lambda: Length(free=-1), "free"),
        (lambda: Clip(1, 1), "high must be more than low, got low 1 and high 1"),
        (lambda: Clip(math.nan, 1), "high must be more than low"),
        (lambda: Clip(-math.inf, math.inf), "nothing would be clipped"),
    ],
)
def test_bad_parameters_are_refused(made, message):
    with pytest.raises(ValueError, match=message):
        made()


def test_a_buffer_that_no_turn_can_fill_is_refused(bandit):
    with pytest.raises(RequestError, match=r"its buffer of 7 tokens is more than rollout.max_tokens, 6"):
        uncollapse.compose({**bandit, "reward": {"shaping": "overlong(7)"}})
    assert uncollapse.compose({**bandit, "reward": {"shaping": "overlong(6)"}}).reward.shaping.component == Overlong(6)


def test_the_smallest_and_the_largest_buffers_are_allowed():
    assert shaped(Overlong(1, limit=1), [1.0, 1.0], [0, 1]) == [1.0, 0.0]
    assert shaped(Overlong(50, limit=50), [1.0, 1.0], [0, 25]) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("spelled", "rollout", "refused"),
    [
        # three turns of 100 tokens, and limits whose first four fifths are free
        *(("overlong(limit=375)", {}, True), ("overlong(limit=374)", {}, False)),
        *(("overlong(limit=375, buffer=76)", {}, False), ("overlong(limit=375, buffer=75)", {}, True)),
        *(("length(free=300)", {}, True), ("length(free=299)", {}, False)),
        *(("length(free=250)", {"max_context": 250}, True), ("length(free=249)", {"max_context": 250}, False)),
        ("length(free=299)", {"max_context": 250, "context_window": "single_turn"}, False),
        ("length(free=150)", {"max_context": 50, "context_window": "single_turn"}, True),
    ],
)
def test_what_no_episode_can_reach_is_refused(spelled, rollout, refused):
    settings = {"max_tokens": 100, "max_turns": 3, "max_context": 1000, "context_window": "full", **rollout}
    experiment = SimpleNamespace(rollout=SimpleNamespace(**settings))
    shaping = named_of("reward_shaping", spelled, "reward.shaping").component
    assert bool(shaping.check(experiment)) == refused
