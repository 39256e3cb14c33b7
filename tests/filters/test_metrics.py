"""Group metrics, and metric + filter + selection of rows together (vectors of RAGEN's filter tests)."""

import attrs
import pytest
import torch
from uncollapse.core.components import Rollouts
from uncollapse.core.errors import RunError
from uncollapse.filters.metrics import Entropy, EntropyVariance, Length, Reward, RewardSum, RewardVariance
from uncollapse.filters.report import selection_metrics
from uncollapse.filters.top_k import TopF, TopK

REWARD_METRICS = [RewardVariance(), Reward(), RewardSum()]


def make(raw_rewards, groups, episodes=None, mask=None, entropies=None) -> Rollouts:
    """Rollouts whose row b belongs to episode ``episodes[b]`` (b itself by default) and group ``groups[b]``."""
    groups = torch.tensor(groups)
    B = len(groups)
    mask = torch.ones(B, 3, dtype=torch.bool) if mask is None else torch.tensor(mask, dtype=torch.bool)
    zeros = torch.zeros(mask.shape)
    return Rollouts(
        tokens=torch.arange(mask.numel()).reshape(mask.shape),
        mask=mask,
        turns=torch.where(mask, 0, -1),
        logprobs=zeros,
        rewards=zeros,
        episodes=torch.arange(B) if episodes is None else torch.tensor(episodes),
        groups=groups,
        raw_rewards_E=torch.tensor(raw_rewards, dtype=torch.float32),
        group_ids_P=torch.tensor(list(dict.fromkeys(groups.tolist()))),
        entropies=None if entropies is None else torch.tensor(entropies, dtype=torch.float32),
    )


def chosen_rows(rollouts, metric, rule) -> list[int]:
    selected = rollouts.select(rule.select(metric.score(rollouts)))
    return (selected.tokens[:, 0] // rollouts.tokens.shape[1]).tolist()


def test_half_of_four_groups_of_two_rows():
    token_scores = torch.arange(24.0).reshape(8, 3)
    rollouts = make(token_scores.sum(1).tolist(), [0, 0, 1, 1, 2, 2, 3, 3])
    assert len(chosen_rows(rollouts, RewardVariance(), TopF(0.5))) == 4


def test_half_of_two_groups_by_entropy_keeps_the_entropies():
    entropies = torch.linspace(0.1, 1, 18).reshape(6, 3)
    rollouts = make([0] * 6, [0, 0, 0, 1, 1, 1], entropies=entropies.tolist())
    assert chosen_rows(rollouts, Entropy(), TopF(0.5)) == [3, 4, 5]
    selected = rollouts.select(TopF(0.5).select(Entropy().score(rollouts)))
    torch.testing.assert_close(selected.entropies, entropies[3:])


def test_half_of_two_groups_by_mean_reward():
    assert chosen_rows(make([10, 11, 0, 5], [0, 0, 1, 1]), Reward(), TopF(0.5)) == [0, 1]


def test_half_of_four_groups_by_reward_sum():
    rows = [[3, 2], [1, 4], [2, 1], [1, 2], [2, 2], [1, 2], [0, 1], [0, 0]]
    rollouts = make([sum(row) for row in rows], [0, 0, 1, 1, 2, 2, 3, 3])
    scores_P = RewardSum().score(rollouts)
    keep_P = TopF(0.5).select(scores_P)
    assert chosen_rows(rollouts, RewardSum(), TopF(0.5)) == [0, 1, 4, 5]
    metrics = selection_metrics(scores_P, keep_P, rollouts)
    assert metrics["rollout/in_group_reward_sum"] == 6.0
    assert metrics["rollout/chosen_in_group_reward_sum"] == 8.5


def test_half_of_the_groups_without_the_zero_ones():
    rollouts = make([1, 2, 5, 5, 10, 20, 0, 0], [0, 0, 1, 1, 2, 2, 3, 3])
    scores_P = RewardVariance().score(rollouts)
    assert scores_P.tolist() == pytest.approx([0.70710678, 0, 7.0710678, 0])
    keep_P = TopF(0.5, include_zero=False).select(scores_P)
    assert keep_P.tolist() == [True, False, True, False]
    metrics = selection_metrics(scores_P, keep_P, rollouts)
    assert metrics["rollout/in_group_reward_std"] == pytest.approx(1.94454, abs=1e-5)
    assert metrics["rollout/chosen_in_group_reward_std"] == pytest.approx(2 * 1.9445436)
    assert metrics["rollout/filter_kept_count"] == 2
    assert metrics["rollout/filter_kept_ratio"] == 0.5
    assert metrics["rollout/filter_zero_count"] == 2
    assert metrics["rollout/in_group_reward_max"] == (2 + 5 + 20 + 0) / 4
    assert metrics["rollout/chosen_in_group_reward_mean"] == (1.5 + 15) / 2


def test_the_one_group_of_least_deviation():
    rollouts = make([1, 1.1, 5, 5, 10, 20, 0, 0], [0, 0, 1, 1, 2, 2, 3, 3])
    rule = TopK(1, type="smallest", include_zero=False)
    assert chosen_rows(rollouts, RewardVariance(), rule) == [0, 1]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (RewardVariance(), [2**0.5, 5**0.5 * 2**0.5]),
        (RewardVariance(ddof=0), [1, 5**0.5]),
        (RewardVariance(squared=True), [2, 10]),
        (Reward(), [2, 5**0.5]),
        (RewardSum(), [4, 2 * 5**0.5]),
    ],
)
def test_reward_metrics_go_by_group_id_and_not_by_position(metric, expected):
    rollouts = make([1, 0, 3, 2 * 5**0.5], [9, 4, 9, 4])
    assert rollouts.group_ids_P.tolist() == [9, 4]
    assert metric.score(rollouts).tolist() == pytest.approx(expected)
    reordered = attrs.evolve(rollouts, group_ids_P=torch.tensor([4, 9]))
    assert metric.score(reordered).tolist() == pytest.approx(expected[::-1])


@pytest.mark.parametrize("metric", REWARD_METRICS)
def test_an_episode_counts_once_however_many_rows_it_has(metric):
    per_episode = make([1, 3, 5, 5.5], [0, 0, 1, 1])
    per_turn = make([1, 3, 5, 5.5], [0, 0, 0, 0, 1, 1], episodes=[0, 1, 1, 1, 2, 3])
    torch.testing.assert_close(metric.score(per_turn), metric.score(per_episode))


def test_length_sums_the_rows_of_an_episode():
    mask = [[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]]
    rollouts = make([0, 0, 0], [0, 0, 0, 1], episodes=[0, 0, 1, 2], mask=mask)
    assert Length().score(rollouts).tolist() == [3, 0]


def test_entropy_is_the_mean_of_episodes_of_rows_of_sampled_tokens():
    mask = [[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]]
    entropies = [[1, 3, 100], [6, 100, 100], [1, 2, 3], [100, 100, 100]]
    rollouts = make([0, 0, 0], [0, 0, 0, 1], episodes=[0, 0, 1, 2], mask=mask, entropies=entropies)
    assert Entropy().score(rollouts).tolist() == [(4 + 2) / 2, 0]
    assert EntropyVariance().score(rollouts).tolist() == pytest.approx([2**0.5, 0])
    assert EntropyVariance(ddof=0).score(rollouts).tolist() == [1, 0]
    metrics = selection_metrics(torch.tensor([1.0, 0.0]), torch.tensor([True, False]), rollouts)
    assert metrics["rollout/in_group_entropy_mean"] == 1.5
    assert metrics["rollout/chosen_in_group_entropy_max"] == 4
    assert metrics["rollout/in_group_length_mean"] == 1.5


@pytest.mark.parametrize("metric", [Entropy(), EntropyVariance()])
def test_entropy_metrics_need_entropies(metric):
    assert "entropies" in metric.needs
    with pytest.raises(RunError, match="entropies"):
        metric.score(make([1, 2], [0, 0]))


@pytest.mark.parametrize("metric", [RewardVariance(), RewardVariance(ddof=0), RewardVariance(squared=True)])
def test_a_group_of_one_and_a_group_of_equals_have_no_deviation(metric):
    assert metric.score(make([0.1] * 7 + [3], [0] * 7 + [1])).tolist() == [0, 0]


def test_nearly_equal_rewards_are_not_equal():
    assert RewardVariance().score(make([0.95] * 7 + [0], [0] * 8)).item() == pytest.approx(0.3358757)


@pytest.mark.parametrize("metric", [RewardVariance, EntropyVariance])
def test_ddof_is_checked(metric):
    assert [metric(ddof=ddof).ddof for ddof in (0, 1)] == [0, 1]
    for ddof in (-1, 2):
        with pytest.raises(ValueError, match="ddof"):
            metric(ddof=ddof)


def test_metrics_of_an_empty_selection_are_zero():
    rollouts = make([1, 1, 2, 2], [0, 0, 1, 1])
    scores_P = RewardVariance().score(rollouts)
    metrics = selection_metrics(scores_P, torch.zeros(2, dtype=torch.bool), rollouts)
    assert metrics["rollout/filter_kept_count"] == metrics["rollout/filter_kept_ratio"] == 0
    assert metrics["rollout/filter_zero_count"] == 2
    assert {value for name, value in metrics.items() if "chosen" in name} == {0.0}
    assert metrics["rollout/in_group_reward_std"] == 0
    assert metrics["rollout/in_group_reward_mean"] == 1.5
    assert not any("entropy" in name for name in metrics)
    assert all(type(value) is float for value in metrics.values())
