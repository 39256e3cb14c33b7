"""Older groups in a step: which are drawn, remembered and forgotten."""

import json
import math
from collections import Counter

import attrs
import pytest
import uncollapse
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.components import GroupPool
from uncollapse.core.errors import RequestError
from uncollapse.core.files import to_json
from uncollapse.plugins.rollout.replay import Replay
from uncollapse.plugins.rollout.sampler_state import from_plain, group_of, to_plain
from uncollapse.testing import samples


def earned(seed, step, reward):
    """A group of two episodes, each of which has this raw reward."""
    episodes = []
    for episode in samples.group(seed, step, 2).episodes:
        episodes.append(attrs.evolve(episode, turns=(attrs.evolve(episode.turns[0], reward=reward, penalty=0.0),)))
    return group_of(episodes, step)


class Pool(GroupPool):
    """Gives groups whose seeds go on from ``first`` and whose reward is their seed modulo 3."""

    def __init__(self, step, first):
        self.step, self.next, self.asked = step, first, []

    def sample(self, groups):
        self.asked.append(groups)
        seeds = range(self.next, self.next + groups)
        self.next = seeds.stop
        return [earned(seed, self.step, float(seed % 3)) for seed in seeds]

    def teaches(self, groups):
        raise AssertionError("nobody asks")


def collected(session, step, first):
    return [(group.seed, group.step) for group in session.collect(Pool(step, first), step)]


def test_a_priority_by_hand():
    rule = Replay(tau=4.0)
    assert rule.log_priority(earned(1, 3, -2.0), 3) == pytest.approx(math.log(2), abs=1e-6)
    assert rule.log_priority(earned(1, 3, 2.0), 5) == pytest.approx(math.log(2) - 0.5, abs=1e-6)
    assert rule.log_priority(earned(1, 3, 0.0), 3) == pytest.approx(math.log(1e-6))


def test_the_first_step_is_new_and_half_of_the_others_old():
    session = Replay().start(4, 2)
    assert collected(session, 0, 0) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert session.metrics() == {"replayed_groups": 0, "replayed_age": 0.0, "remembered_groups": 4}
    second = collected(session, 1, 10)
    # only 1 and 2 have earned anything
    assert sorted(second) == [(1, 0), (2, 0), (10, 1), (11, 1)]
    assert session.metrics() == {"replayed_groups": 2, "replayed_age": 1.0, "remembered_groups": 6}


def test_what_has_the_least_priority_is_forgotten():
    session = Replay(capacity=3).start(5, 2)
    session.collect(Pool(0, 0), 0)  # rewards 0, 1, 2, 0, 1
    assert [group.seed for group in session.memory] == [2, 1, 4]


def test_a_step_is_whole_where_the_tasks_of_old_groups_come_again():
    session = Replay(capacity=2).start(4, 2)
    collected(session, 0, 0)
    assert [group.seed for group in session.memory] == [2, 1]
    assert collected(session, 1, 1) == [(1, 1), (2, 1), (3, 1), (4, 1)]
    assert session.metrics()["replayed_groups"] == 0


def test_of_a_task_that_has_come_again_there_is_only_the_newer_group():
    session = Replay(share=0.75).start(4, 2)
    collected(session, 0, 1)
    again = collected(session, 1, 2)
    assert (2, 1) in again
    assert len({seed for seed, _ in again}) == len(again)
    assert [(group.seed, group.step) for group in session.memory if group.seed == 2] == [(2, 1)]


def test_groups_are_drawn_in_proportion_to_their_priorities():
    drawn = Counter()
    for seed in range(4000):
        session = Replay(0.5, tau=10.0, seed=seed).start(2, 2)
        # priorities 1 / e, 1 and 2
        session.memory = [earned(0, 0, 1.0), earned(1, 10, 1.0), earned(2, 10, 2.0)]
        drawn[session.collect(Pool(10, 50), 10)[0].seed] += 1
    total = 3 + math.exp(-1)
    for seed, priority in enumerate((math.exp(-1), 1, 2)):
        share = priority / total
        assert drawn[seed] / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)


@given(st.integers(2, 6), st.integers(1, 9), st.sampled_from([0.25, 0.5, 0.9]), st.integers(1, 5), st.data())
def test_a_resumed_run_replays_the_same(groups, capacity, share, steps, data):
    cut = data.draw(st.integers(0, steps))
    whole, before, after = (Replay(share, 3.0, capacity).start(groups, 2) for _ in range(3))
    expected = [whole.collect(Pool(step, 10 * step), step) for step in range(steps)]
    for step, chosen in enumerate(expected):
        assert len({group.seed for group in chosen}) == len(chosen) == groups
        assert sum(group.step < step for group in chosen) <= share * groups
    for step in range(cut):
        before.collect(Pool(step, 10 * step), step)
    after.load_state_dict(from_plain(json.loads(to_json(to_plain(before.state_dict())))))
    assert [after.collect(Pool(step, 10 * step), step) for step in range(cut, steps)] == expected[cut:]
    assert after.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("parameters", "name"),
    [({"share": 0}, "share"), ({"share": 1}, "share"), ({"tau": 0}, "tau"), ({"capacity": 0}, "capacity")],
)
def test_bad_parameters_are_refused(parameters, name):
    with pytest.raises(ValueError, match=name):
        Replay(**parameters)


def test_old_groups_need_a_correction_and_room(bandit):
    def composed(batch, **other):
        return uncollapse.compose({**bandit, "rollout": {**bandit["rollout"], "batch": batch}, **other})

    with pytest.raises(RequestError, match="as if the policy of the step had sampled them"):
        composed("replay")
    with pytest.raises(RequestError, match=r"a share of 0.1 of rollout.groups, 4, is less than one group"):
        composed("replay(0.1)", correction="tis")
    assert composed("replay", correction="tis").rollout.batch.component == Replay()
