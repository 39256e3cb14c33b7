from __future__ import annotations

import pytest
import torch
from uncollapse.estimators.advantage.reweight import filter_loss_scale, soft_advantage_reweight, soft_group_weights

# group 8: rewards 0 and 1 (std 0.7071), group 3: rewards 0, 0.5 and 1 (std 0.5)
RAW = torch.tensor([0.0, 1, 0, 0.5, 1])
GROUPS = torch.tensor([8, 8, 3, 3, 3])
EPISODES = torch.arange(5)


def test_weights_are_std_over_the_largest_std():
    weights = soft_group_weights(GROUPS, EPISODES, RAW)
    torch.testing.assert_close(weights, torch.tensor([1, 1, 0.5**0.5, 0.5**0.5, 0.5**0.5]), atol=2e-6, rtol=0)


def test_small_spreads_weigh_little_not_nothing():
    weights = soft_group_weights(torch.tensor([0, 0, 1, 1]), torch.arange(4), torch.tensor([0.0, 1e-6, 0.0, 0.5e-6]))
    # std .7071e-6 and half of it, over .7071e-6 + 1e-6
    torch.testing.assert_close(weights, torch.tensor([0.4142, 0.4142, 0.2071, 0.2071]), atol=1e-4, rtol=0)


def test_an_episode_counts_once():
    rows = torch.tensor([0, 0, 0, 1, 2, 3, 4, 4])
    weights = soft_group_weights(GROUPS[rows], EPISODES[rows], RAW)
    assert torch.equal(weights, soft_group_weights(GROUPS, EPISODES, RAW)[rows])


def test_only_groups_of_the_batch_count():
    rows = torch.tensor([4, 1, 2, 0])  # group 3 without its 0.5 is as wide as group 8
    torch.testing.assert_close(soft_group_weights(GROUPS[rows], EPISODES[rows], RAW), torch.ones(4), atol=3e-6, rtol=0)
    rows = torch.tensor([4, 2, 3])
    torch.testing.assert_close(soft_group_weights(GROUPS[rows], EPISODES[rows], RAW), torch.ones(3), atol=3e-6, rtol=0)


def test_equal_rewards_and_groups_of_one_have_weight_zero():
    weights = soft_group_weights(torch.tensor([0, 0, 1, 2, 2]), EPISODES, torch.tensor([0.95, 0.95, 5, 0, 1]))
    assert weights[:3].tolist() == [0, 0, 0]
    assert weights[3] > 0.999
    assert soft_group_weights(torch.zeros(7).long(), torch.arange(7), torch.full((7,), 0.95)).tolist() == [0] * 7


def test_advantages_are_scaled_row_by_row():
    advantages = torch.ones(5, 2)
    scaled = soft_advantage_reweight(advantages, GROUPS, EPISODES, RAW)
    assert torch.equal(scaled, soft_group_weights(GROUPS, EPISODES, RAW)[:, None].expand(5, 2))
    assert torch.equal(advantages, torch.ones(5, 2))


@pytest.mark.parametrize(("mode", "scale"), [("none", 1.0), ("linear", 0.25), ("sqrt", 0.5)])
def test_filter_loss_scale(mode, scale):
    assert filter_loss_scale(0.25, mode) == scale
    assert filter_loss_scale(1.0, mode) == 1.0


def test_filter_loss_scale_refuses_nonsense():
    with pytest.raises(ValueError, match="linear"):
        filter_loss_scale(0.5, "cubic")
    with pytest.raises(ValueError, match="kept ratio"):
        filter_loss_scale(1.5, "sqrt")


@pytest.mark.parametrize("mode", ["none", "linear", "sqrt"])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_kept_ratio_may_be_nothing_or_everything(mode, ratio):
    assert filter_loss_scale(ratio, mode) == (1.0 if mode == "none" else ratio)


@pytest.mark.parametrize("ratio", [-1e-9, 1 + 1e-9, float("nan"), -1.0, 2.0])
def test_a_kept_ratio_just_outside_is_refused(ratio):
    with pytest.raises(ValueError, match="0 to 1"):
        filter_loss_scale(ratio, "linear")


def test_a_spread_of_a_millionth_counts_half_and_far_larger_ones_wholly():
    """The largest standard deviation has 1e-6 added to it, no more and no less."""
    rewards = torch.tensor([0.0, 2**0.5]).double()
    for size, weight in ((1e-6, 0.5), (3e-6, 0.75), (1e-3, 1 / 1.001)):
        found = soft_group_weights(torch.tensor([4, 4]), torch.arange(2), size * rewards)
        assert found.tolist() == pytest.approx([weight] * 2, rel=1e-4)


def test_no_rows_have_no_weights():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert soft_group_weights(nothing, nothing, torch.zeros(0)).shape == (0,)
