from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.plugins.training.step.rewards import normalize

RAW = torch.tensor([1.0, 10, 0, 20, 2])
GROUPS = torch.tensor([4, -1, 4, -1, 4])


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-5, rtol=0)


def test_identity_is_the_default():
    assert torch.equal(normalize(RAW, GROUPS), RAW)


def test_mean_and_std_of_the_group():
    close(normalize(RAW, GROUPS, "mean", "group"), [0.0, -5, -1, 5, 1])
    # std of 0, 1, 2 is 1; of 10, 20 it is 7.0711
    close(normalize(RAW, GROUPS, "mean_std", "group"), [0.0, -(0.5**0.5), -1, 0.5**0.5, 1])


def test_mean_and_std_of_the_batch():
    close(normalize(RAW, GROUPS, "mean", "batch"), [-5.6, 3.4, -6.6, 13.4, -4.6])
    # sum of squares 287.2, over 4
    close(normalize(RAW, GROUPS, "mean_std", "batch"), [x / 71.8**0.5 for x in (-5.6, 3.4, -6.6, 13.4, -4.6)])


def test_asym_clip_clamps_the_standardised_reward():
    raw = torch.cat([torch.zeros(15), torch.tensor([1.0, -1.0])])
    one_group = torch.zeros(17, dtype=torch.long)
    standard = normalize(raw[:16], one_group[:16], "mean_std")
    assert standard[15] > 3
    assert normalize(raw[:16], one_group[:16], "asym_clip")[15] == 3
    assert normalize(raw, one_group, "asym_clip")[16] == -1
    close(normalize(RAW, GROUPS, "asym_clip"), normalize(RAW, GROUPS, "mean_std").tolist())


@pytest.mark.parametrize("normalization", ["mean", "mean_std", "asym_clip"])
@pytest.mark.parametrize("over", ["group", "batch"])
def test_equal_rewards_become_exactly_zero(normalization, over):
    assert normalize(torch.full((7,), 0.95), torch.zeros(7).long(), normalization, over).tolist() == [0.0] * 7


def test_a_std_of_a_millionth_is_none():
    raw = torch.tensor([0.0, 1e-6], dtype=torch.float64)  # std 7.1e-7
    assert normalize(raw, torch.zeros(2).long(), "mean_std").tolist() == [0.0, 0.0]


def test_a_std_above_a_millionth_is_one():
    raw = torch.tensor([0.0, 2e-6], dtype=torch.float64)  # std 1.41e-6, deviation 1e-6
    close(normalize(raw, torch.zeros(2).long(), "mean_std").float(), [-1 / 2.41421, 1 / 2.41421])


@pytest.mark.parametrize("normalization", ["mean", "mean_std", "asym_clip"])
def test_a_group_of_one_stays_as_it_is(normalization):
    assert normalize(torch.tensor([-7.0, 1, 2]), torch.tensor([0, 1, 1]), normalization)[0] == -7
    assert normalize(torch.tensor([-7.0]), torch.tensor([0]), normalization, "batch").tolist() == [-7]


@given(
    raw=st.lists(st.integers(-5, 5), min_size=1, max_size=10),
    normalization=st.sampled_from(["identity", "mean", "mean_std", "asym_clip"]),
    over=st.sampled_from(["group", "batch"]),
    data=st.data(),
)
def test_order_and_names_of_groups_do_not_matter(raw, normalization, over, data):
    raw_E = torch.tensor(raw, dtype=torch.float64)
    groups_E = torch.arange(len(raw)) % 3
    order = torch.tensor(data.draw(st.permutations(range(len(raw)))))
    names = torch.tensor([90, -4, 17])
    shuffled = normalize(raw_E[order], names[groups_E[order]], normalization, over)
    torch.testing.assert_close(shuffled, normalize(raw_E, groups_E, normalization, over)[order])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="mean_std"):
        normalize(RAW, GROUPS, "std")
    with pytest.raises(ValueError, match="batch"):
        normalize(RAW, GROUPS, "mean", "env")
