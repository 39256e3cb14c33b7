"""What is said of a selection, by hand on three groups."""

import math

import attrs
import pytest
import torch
from uncollapse.core.components import Rollouts
from uncollapse.filters.report import selection_metrics

GROUPS = torch.tensor([7, 7, 7, 2, 2, 5])
REWARDS = torch.tensor([1.0, 2.0, 6.0, -1.0, -1.0, 4.0])
LENGTHS = torch.tensor([1, 2, 3, 3, 1, 2])
ENTROPIES = torch.tensor([0.5, 0.25, 1.0, 2.0, 1.0, 3.0])


def rollouts(groups=GROUPS, ids=(7, 2, 5), entropies=True) -> Rollouts:
    E = len(groups)
    mask = torch.arange(4)[None] < LENGTHS[:E, None]
    zeros = torch.zeros(mask.shape)
    return Rollouts(
        tokens=torch.zeros(mask.shape, dtype=torch.long),
        mask=mask,
        turns=torch.where(mask, 0, -1),
        logprobs=zeros,
        rewards=zeros,
        episodes=torch.arange(E),
        groups=groups,
        raw_rewards_E=REWARDS[:E],
        group_ids_P=torch.tensor(ids, dtype=torch.long),
        entropies=torch.where(mask, ENTROPIES[:E, None], 99.0) if entropies else None,
    )


def within(name, std, largest, mean):
    return {f"rollout/{name}_std": std, f"rollout/{name}_max": largest, f"rollout/{name}_mean": mean}


# deviations of 1, 2, 6: about 3, sqrt((4 + 1 + 9) / 2); of 1, 2, 3: 1; of 3, 1: sqrt 2; of .5, .25, 1 about 7 / 12
ENTROPY_STD = math.sqrt(((1 / 12) ** 2 + (4 / 12) ** 2 + (5 / 12) ** 2) / 2)


def test_by_hand():
    scores = torch.tensor([2.0, 1e-10, -2e-10], dtype=torch.float64)
    found = selection_metrics(scores, torch.tensor([True, False, True]), rollouts())
    assert found == pytest.approx(
        {
            "rollout/filter_kept_count": 2.0,
            "rollout/filter_kept_ratio": 2 / 3,
            "rollout/filter_zero_count": 1.0,
            **within("in_group_reward", math.sqrt(7) / 3, (6 - 1 + 4) / 3, (3 - 1 + 4) / 3),
            "rollout/in_group_reward_sum": (9 - 2 + 4) / 3,
            # deviations of root 7, 0 and 0: of the mean a third, of the deviation a third times root 3
            "rollout/in_group_reward_std_cv": math.sqrt(3),
            **within("in_group_length", (1 + math.sqrt(2)) / 3, (3 + 3 + 2) / 3, (2 + 2 + 2) / 3),
            **within("in_group_entropy", (ENTROPY_STD + math.sqrt(0.5)) / 3, (1 + 2 + 3) / 3, (7 / 12 + 1.5 + 3) / 3),
            **within("chosen_in_group_reward", math.sqrt(7) / 2, (6 + 4) / 2, (3 + 4) / 2),
            "rollout/chosen_in_group_reward_sum": (9 + 4) / 2,
            **within("chosen_in_group_length", 1 / 2, (3 + 2) / 2, (2 + 2) / 2),
            **within("chosen_in_group_entropy", ENTROPY_STD / 2, (1 + 3) / 2, (7 / 12 + 3) / 2),
        },
        rel=1e-6,
    )


def test_where_nothing_is_kept_what_is_said_of_the_kept_is_0():
    found = selection_metrics(torch.ones(3), torch.zeros(3, dtype=torch.bool), rollouts(entropies=False))
    assert (found["rollout/filter_kept_count"], found["rollout/filter_kept_ratio"]) == (0.0, 0.0)
    chosen = {name: value for name, value in found.items() if "chosen" in name}
    assert len(chosen) == 7 and set(chosen.values()) == {0.0}
    assert not any("entropy" in name for name in found)
    assert found["rollout/in_group_reward_sum"] == pytest.approx(11 / 3)


def test_without_groups_all_is_0():
    none = rollouts(GROUPS[:0], ())
    found = selection_metrics(torch.zeros(0), torch.zeros(0, dtype=torch.bool), none)
    assert set(found.values()) == {0.0}


def test_the_spread_over_groups_of_the_spread_within_is_relative_to_its_mean():
    rewards = torch.tensor([0.0, 2.0, 1.0, 5.0, 3.0, 3.0])
    pairs = attrs.evolve(rollouts(torch.tensor([7, 7, 2, 2, 5, 5])), raw_rewards_E=rewards)
    found = selection_metrics(torch.ones(3), torch.ones(3, dtype=torch.bool), pairs)
    # deviations of root 2 times 1, 2 and 0: mean 1 and deviation 1, in units of root 2
    assert found["rollout/in_group_reward_std_cv"] == pytest.approx(1.0)
    larger = attrs.evolve(pairs, raw_rewards_E=10 * rewards - 4)
    found = selection_metrics(torch.ones(3), torch.ones(3, dtype=torch.bool), larger)
    assert found["rollout/in_group_reward_std_cv"] == pytest.approx(1.0)


@pytest.mark.parametrize("groups", [[7] * 6, [7, 7, 2, 2, 5, 5]])
def test_without_two_groups_or_any_spread_there_is_no_relative_spread(groups):
    rewards = REWARDS if len(set(groups)) == 1 else torch.tensor([1.0, 1.0, 2.0, 2.0, 0.0, 0.0])
    some = attrs.evolve(rollouts(torch.tensor(groups), tuple(dict.fromkeys(groups))), raw_rewards_E=rewards)
    P = len(some.group_ids_P)
    found = selection_metrics(torch.ones(P), torch.ones(P, dtype=torch.bool), some)
    assert "rollout/in_group_reward_std" in found and "rollout/in_group_reward_std_cv" not in found
