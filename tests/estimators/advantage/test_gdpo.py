"""GDPO, held to verl and TRL (tests/peers), and to numbers worked out by hand."""

import json
from pathlib import Path

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.core.components import CreditInputs
from uncollapse.core.errors import RunError
from uncollapse.estimators.advantage.gdpo import Gdpo
from uncollapse.estimators.advantage.outcome import Grpo

PEERS = Path(__file__).parents[2] / "peers"


def batch(rewards, groups, lengths=None, weights=None, episodes=None):
    """Rows whose tokens are all sampled; the weighted sum stands on the last one."""
    groups = torch.tensor(groups)
    lengths = torch.ones(len(groups), dtype=torch.long) if lengths is None else torch.tensor(lengths)
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    rewards = {name: torch.as_tensor(values, dtype=torch.float32) for name, values in rewards.items()}
    weights = dict.fromkeys(rewards, 1.0) | (weights or {})
    episodes = torch.arange(len(groups)) if episodes is None else torch.tensor(episodes)
    total_E = sum(weights[name] * values for name, values in rewards.items())
    last = (torch.arange(mask.shape[1])[None] == lengths[:, None] - 1).float()
    return CreditInputs(
        rewards=last * total_E[episodes][:, None],
        mask=mask,
        groups=groups,
        episodes=episodes,
        rewards_by_name=rewards,
        reward_weights=weights,
    )


def of_peer(name):
    content = json.loads((PEERS / f"{name}.json").read_text())
    return [pytest.param(content["inputs"], case, id="-".join(case["names"])) for case in content["cases"]]


def peer_batch(inputs, case):
    rewards = {name: inputs["rewards"][name] for name in case["names"]}
    weights = dict(zip(case["names"], case["weights"], strict=True))
    return batch(rewards, inputs["groups"], inputs.get("lengths"), weights)


@pytest.mark.parametrize(("inputs", "case"), of_peer("verl_gdpo"))
def test_over_tokens_it_is_verls(inputs, case):
    made = peer_batch(inputs, case)
    expected = torch.tensor(case["advantages"])
    assert bool((expected != 0).any())
    torch.testing.assert_close(Gdpo(over="tokens").compute(made).advantages, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("inputs", "case"), of_peer("trl_gdpo"))
def test_over_episodes_with_its_eps_it_is_trls(inputs, case):
    made = peer_batch(inputs, case)
    expected = torch.tensor(case["advantages"])[:, None]
    assert bool((expected != 0).any())
    torch.testing.assert_close(Gdpo(eps=1e-4).compute(made).advantages, expected, atol=1e-6, rtol=1e-6)


def test_rewards_are_standardised_one_by_one_and_whitened_over_episodes():
    """By hand: z of the reward 1, 0 is 0.7071, -0.7071; both rewards agree in one group and cancel in the other."""
    made = batch({"right": [1, 0, 1, 0], "brief": [100, 0, 0, 100]}, [5, 5, 7, 7], lengths=[1, 9, 2, 3])
    result = Gdpo().compute(made)
    # z = 1.4142, -1.4142, 0, 0: mean 0, variance 4 / 3
    expected = torch.tensor([1.0, -1.0, 0.0, 0.0]) * 2**0.5 / (4 / 3) ** 0.5
    torch.testing.assert_close(result.advantages[:, 0], expected, atol=1e-5, rtol=0)
    assert result.returns[:, 0].tolist() == [101.0, 0.0, 1.0, 100.0]
    # grpo sees the sum alone: the second group prefers the brief and wrong answer
    assert Grpo().compute(made).advantages[2:, 0].tolist() == pytest.approx([-0.7071, 0.7071], abs=1e-4)


def test_weights_count_after_the_standardisation():
    made = batch({"right": [1, 0], "brief": [0, 30]}, [1, 1], weights={"right": 2.0, "brief": 0.5})
    # z = +-0.7071 * (2 - 0.5) = +-1.0607; the deviation of two such numbers is 1.5, so A = +-0.7071
    torch.testing.assert_close(Gdpo().compute(made).advantages[:, 0], torch.tensor([0.5**0.5, -(0.5**0.5)]))
    muted = batch({"right": [1, 0], "brief": [0, 30]}, [1, 1], weights={"right": 0.0})
    torch.testing.assert_close(Gdpo().compute(muted).advantages[:, 0], -torch.tensor([0.5**0.5, -(0.5**0.5)]))


def test_an_episode_counts_once_however_many_rows_it_has():
    rewards = {"right": [1, 0, 0.5], "brief": [3, 9, 1]}
    whole = Gdpo().compute(batch(rewards, [4, 4, 4])).advantages[:, 0]
    by_turns = Gdpo().compute(batch(rewards, [4, 4, 4, 4, 4], [2, 1, 4, 1, 1], episodes=[0, 0, 1, 0, 2]))
    torch.testing.assert_close(by_turns.advantages[:, 0], whole[torch.tensor([0, 0, 1, 0, 2])])


@pytest.mark.parametrize("over", ["episodes", "tokens"])
@pytest.mark.parametrize(
    "rewards",
    [
        {"right": [0.95] * 7, "brief": [0.1] * 7},
        # they cancel: what is left is rounding
        {"right": [1, 0, 0, 0.3, 0.7, 1, 0], "brief": [0, 1, 1, 0.7, 0.3, 0, 1]},
    ],
)
def test_nothing_to_compare_gives_exactly_zero(over, rewards):
    made = batch(rewards, [1] * 7, lengths=[1, 2, 3, 4, 5, 6, 7])
    assert Gdpo(over=over, eps=1e-30).compute(made).advantages.abs().max() == 0


@pytest.mark.parametrize("over", ["episodes", "tokens"])
def test_a_group_of_one_and_an_empty_row_compare_nothing(over):
    made = batch({"right": [1, 0, 7], "brief": [1, 0, 9]}, [1, 1, 2])
    advantages = Gdpo(over=over).compute(made).advantages[:, 0].tolist()
    assert advantages == pytest.approx([1.0, -1.0, 0.0], abs=1e-5)
    longer = batch({"right": [1, 0, 7, 3], "brief": [1, 0, 9, 4]}, [1, 1, 2, 1])
    empty = attrs.evolve(longer, mask=torch.tensor([[True], [True], [True], [False]]), rewards=longer.rewards * 0)
    assert Gdpo(over=over).compute(empty).advantages[:, 0].tolist() == pytest.approx([1.0, -1.0, 0.0, 0.0], abs=1e-5)
    nobody = attrs.evolve(longer, mask=torch.zeros(4, 1, dtype=torch.bool), rewards=longer.rewards * 0)
    assert Gdpo(over=over).compute(nobody).advantages.tolist() == [[0.0]] * 4


def test_one_reward_is_refused():
    with pytest.raises(RunError, match="was given 1 rewards by name, and compares at least two"):
        Gdpo().compute(batch({"right": [1, 0]}, [1, 1]))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=12),
    st.sampled_from([0.01, 3.0, 1000.0]),
    st.floats(-5, 5),
)
def test_scale_and_offset_of_a_reward_do_not_matter(members, scale, offset):
    groups, right, brief = (list(values) for values in zip(*members, strict=True))
    plain = Gdpo(eps=1e-12).compute(batch({"right": right, "brief": brief}, groups)).advantages
    rewards = {"right": torch.tensor(right, dtype=torch.float64) * scale + round(offset), "brief": torch.tensor(brief)}
    moved = attrs.evolve(batch({"right": right, "brief": brief}, groups), rewards_by_name=rewards)
    torch.testing.assert_close(Gdpo(eps=1e-12).compute(moved).advantages, plain, atol=1e-4, rtol=1e-4)
