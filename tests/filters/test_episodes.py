"""Episode filters, and what selecting episodes leaves of rollouts."""

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.components import Rollouts
from uncollapse.core.errors import RunError
from uncollapse.core.registry import registry
from uncollapse.filters.episodes import AllEpisodes, BestWorst
from uncollapse.testing import samples

PER_ROW = ("tokens", "mask", "turns", "logprobs", "rewards", "groups", "entropies", "lengths")
PER_EPISODE = ("raw_rewards_E", "success_E", "truncated_E")


def by_turns(rows_per_episode):
    """Rollouts with several rows of each of the eight episodes, as a turn-level context window makes them."""
    sampled = samples.rollouts()
    rows = torch.repeat_interleave(torch.arange(8), torch.tensor(rows_per_episode))
    per_row = {name: getattr(sampled, name)[rows] for name in PER_ROW}
    return attrs.evolve(sampled, **per_row, episodes=rows)


kept = st.lists(st.booleans(), min_size=8, max_size=8).map(torch.tensor)
rows = st.lists(st.integers(1, 3), min_size=8, max_size=8).map(by_turns)


def equal(one: Rollouts, other: Rollouts) -> bool:
    """Whether all tensors are equal, those by name too; both have the same names and weights."""
    assert one.rewards_by_name.keys() == other.rewards_by_name.keys()
    assert one.reward_weights == other.reward_weights
    fields = [{**attrs.asdict(each, recurse=False), **each.rewards_by_name} for each in (one, other)]
    pairs = ((fields[0][name], fields[1][name]) for name in fields[0] if not isinstance(fields[0][name], dict))
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


@given(rows, kept)
def test_the_rows_of_the_kept_episodes_are_left_in_their_order(rollouts, keep_E):
    left = rollouts.select_episodes(keep_E)
    rows_B = keep_E[rollouts.episodes]
    for name in PER_ROW:
        assert torch.equal(getattr(left, name), getattr(rollouts, name)[rows_B])
    for name in PER_EPISODE:
        assert torch.equal(getattr(left, name), getattr(rollouts, name)[keep_E])
    # each row still points at its own episode
    assert torch.equal(left.raw_rewards_E[left.episodes], rollouts.raw_rewards_E[rollouts.episodes[rows_B]])
    groups = [group for group in rollouts.group_ids_P.tolist() if group in left.groups.tolist()]
    assert left.group_ids_P.tolist() == groups
    assert torch.equal(left.groups_of_episodes(), rollouts.groups_of_episodes()[keep_E])


@given(rows, kept, kept)
def test_selecting_twice_is_selecting_what_both_keep(rollouts, first_E, second_E):
    once = rollouts.select_episodes(first_E & second_E)
    assert equal(rollouts.select_episodes(first_E).select_episodes(second_E[first_E]), once)


@given(rows, st.lists(st.booleans(), min_size=4, max_size=4).map(torch.tensor))
def test_selecting_groups_is_selecting_all_of_their_episodes(rollouts, keep_P):
    left = rollouts.select(keep_P)
    assert equal(left, rollouts.select_episodes(rollouts.episodes_of(keep_P)))
    assert torch.equal(left.group_ids_P, rollouts.group_ids_P[keep_P])
    assert len(left.raw_rewards_E) == 2 * int(keep_P.sum())
    assert torch.equal(rollouts.rows_of(keep_P), rollouts.episodes_of(keep_P)[rollouts.episodes])


def test_all_keeps_every_episode_and_is_never_asked():
    chosen = registry().create("episode_filter", "all")
    assert chosen == AllEpisodes()
    assert chosen.keeps_all
    assert chosen.needs == frozenset()
    assert chosen.select(samples.rollouts()).tolist() == [True] * 8


def rewarded(*groups):
    """Rollouts of groups of episodes with these rewards, a row each."""
    sampled = samples.rollouts()
    rewards = [reward for group in groups for reward in group]
    rows = torch.zeros(len(rewards), dtype=torch.long)
    groups_B = torch.tensor([7 + number for number, group in enumerate(groups) for _ in group], dtype=torch.long)
    return attrs.evolve(
        sampled,
        **{name: getattr(sampled, name)[rows] for name in PER_ROW if name != "groups"},
        groups=groups_B,
        episodes=torch.arange(len(rewards)),
        group_ids_P=groups_B.unique(),
        raw_rewards_E=torch.tensor(rewards, dtype=torch.float32),
        success_E=None,
        truncated_E=None,
    )


@pytest.mark.parametrize(
    ("k", "groups", "expected"),
    [
        (1, [[0.5, 2, -1, 1]], [[1, 2]]),
        (2, [[0.5, 2, -1, 1, 0]], [[1, 2, 3, 4]]),
        (1, [[0, 0, 0, 0]], [[0, 3]]),
        (1, [[1, 0, 1, 0, 1]], [[0, 3]]),
        (2, [[1, 2, 3], [4, 3, 2, 1, 0]], [[0, 1, 2], [0, 1, 3, 4]]),
        (3, [[1]], [[0]]),
    ],
)
def test_the_best_and_the_worst_of_each_group_are_kept(k, groups, expected):
    kept_E = registry().create("episode_filter", "best_worst", k=k).select(rewarded(*groups)).tolist()
    for group, places in zip(groups, expected, strict=True):
        own, kept_E = kept_E[: len(group)], kept_E[len(group) :]
        assert [place for place, keep in enumerate(own) if keep] == places


@given(
    st.lists(st.lists(st.integers(0, 3).map(float), min_size=1, max_size=9), min_size=1, max_size=3), st.integers(1, 4)
)
def test_nobody_who_is_dropped_is_better_than_the_best_or_worse_than_the_worst(groups, k):
    kept_E = BestWorst(k).select(rewarded(*groups)).tolist()
    for group in groups:
        own, kept_E = kept_E[: len(group)], kept_E[len(group) :]
        assert sum(own) == min(len(group), 2 * k)
        kept = sorted(reward for reward, keep in zip(group, own, strict=True) if keep)
        assert kept == (sorted(group)[:k] + sorted(group)[-k:] if len(group) > 2 * k else sorted(group))


def test_what_a_limit_has_ended_is_dropped():
    chosen = registry().create("episode_filter", "drop_truncated")
    rollouts = samples.rollouts()
    assert chosen.select(rollouts).tolist() == [not each for each in rollouts.truncated_E.tolist()]
    assert 0 < int(rollouts.truncated_E.sum()) < 8
    assert not chosen.keeps_all
    with pytest.raises(RunError, match="do not say which episodes a limit has ended"):
        chosen.select(attrs.evolve(rollouts, truncated_E=None))


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_best_worst_refuses_what_is_no_count(k):
    with pytest.raises(ValueError, match="k must be a count"):
        BestWorst(k)
