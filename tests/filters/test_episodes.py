"""Episode filters, and what selecting episodes leaves of rollouts."""

import attrs
import torch
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.components import Rollouts
from uncollapse.core.registry import registry
from uncollapse.filters.episodes import AllEpisodes
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
    pairs = ((getattr(one, field.name), getattr(other, field.name)) for field in attrs.fields(Rollouts))
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
