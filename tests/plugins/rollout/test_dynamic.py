"""Sampling on until enough groups teach, with groups of whom it is known which do."""

import json

import pytest
import uncollapse
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.components import GroupPool
from uncollapse.core.errors import RequestError
from uncollapse.core.files import to_json
from uncollapse.plugins.rollout.dynamic import Dynamic
from uncollapse.plugins.rollout.sampler_state import from_plain, to_plain
from uncollapse.testing import samples

SIZE = 2


class Pool(GroupPool):
    """Gives groups whose seeds go on from ``first``; every ``every``-th of them teaches, and none where it is 0."""

    def __init__(self, step, first, every):
        self.step, self.next, self.every, self.rounds = step, first, every, []

    def sample(self, groups):
        self.rounds.append(groups)
        seeds = range(self.next, self.next + groups)
        self.next = seeds.stop
        return [samples.group(seed, self.step, SIZE) for seed in seeds]

    def teaches(self, groups):
        return [bool(self.every) and group.seed % self.every == 0 for group in groups]


def collected(session, step, first, every):
    pool = Pool(step, first, every)
    return [(group.seed, group.step) for group in session.collect(pool, step)], pool.rounds


def test_it_samples_on_until_enough_groups_teach_and_keeps_the_others():
    session = Dynamic().start(4, SIZE)
    # of the seeds 0 to 11 every third teaches: 0, 3 | 6 | 9
    assert collected(session, 0, 0, 3) == ([(0, 0), (3, 0), (6, 0), (9, 0)], [4, 4, 4])
    assert session.metrics()["discarded_episodes"] == 8 * SIZE
    assert (session.metrics()["rounds"], session.metrics()["kept_episodes"]) == (3, 0)
    # 20, 22 | 24, 26: as many as are wanted, none to spare
    assert collected(session, 1, 20, 2)[1] == [4, 4]
    # all of them teach at once
    assert collected(session, 2, 40, 1) == ([(40, 2), (41, 2), (42, 2), (43, 2)], [4])
    assert session.metrics()["discarded_episodes"] == 0


def test_what_is_left_over_comes_first_in_the_next_step():
    session = Dynamic(size=6).start(4, SIZE)
    assert collected(session, 0, 0, 1)[0] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert session.metrics() == {
        "rounds": 1,
        "discarded_episodes": 0,
        "kept_episodes": 2 * SIZE,
        "sampled_success": pytest.approx(4 / 12),
    }
    # 4 and 5 are left; 10, 12, 14 teach, and 14 is left
    assert collected(session, 1, 10, 2) == ([(4, 0), (5, 0), (10, 1), (12, 1)], [6])
    assert [group.seed for group in session.left] == [14]


def test_a_step_of_enough_groups_that_are_left_samples_nothing():
    session = Dynamic(size=9).start(3, SIZE)
    assert collected(session, 0, 0, 1)[1] == [9]
    assert collected(session, 1, 100, 1) == ([(3, 0), (4, 0), (5, 0)], [])
    assert session.metrics() == {"rounds": 0, "discarded_episodes": 0, "kept_episodes": 3 * SIZE}
    assert collected(session, 2, 100, 1) == ([(6, 0), (7, 0), (8, 0)], [])


def test_a_spent_budget_gives_what_there_is():
    session = Dynamic(rounds=2).start(4, SIZE)
    assert collected(session, 0, 0, 4) == ([(0, 0), (4, 0)], [4, 4])
    assert session.metrics()["discarded_episodes"] == 6 * SIZE
    assert collected(session, 1, 20, 0) == ([(24, 1), (25, 1), (26, 1), (27, 1)], [4, 4])
    assert session.metrics() == {
        "rounds": 2,
        "discarded_episodes": 8 * SIZE,
        "kept_episodes": 0,
        "sampled_success": pytest.approx(5 / 16),  # the second member wins where 3 does not divide the seed
    }


def test_a_newer_group_of_the_same_task_takes_the_place_of_one_that_was_left():
    session = Dynamic(size=3).start(2, SIZE)
    collected(session, 0, 0, 1)
    assert [(group.seed, group.step) for group in session.left] == [(2, 0)]
    # 2 comes again and teaches: the new one is taken
    assert collected(session, 1, 2, 1)[0] == [(2, 1), (3, 1)]
    assert session.metrics()["discarded_episodes"] == SIZE
    assert [(group.seed, group.step) for group in session.left] == [(4, 1)]
    # 4 comes again and teaches no more: the old one stays
    assert collected(session, 2, 4, 5)[0] == [(4, 1), (5, 2)]


SIZES = st.one_of(st.none(), st.integers(1, 9))


@given(st.integers(1, 5), st.integers(1, 4), SIZES, st.lists(st.integers(0, 4), max_size=5))
def test_no_episode_is_lost_or_trains_twice(groups, rounds, size, every):
    session = Dynamic(rounds, size).start(groups, SIZE)
    trained, sampled, discarded = [], 0, 0
    for step, one_in in enumerate(every):
        pool = Pool(step, 100 * step, one_in)
        chosen = session.collect(pool, step)
        taught = [group for group in chosen if group.step < step or (one_in and group.seed % one_in == 0)]
        assert 1 <= len(chosen) <= max(groups, size or groups)
        assert len(taught) == groups or len(pool.rounds) == rounds
        trained += [(group.seed, group.step) for group in taught]
        sampled += SIZE * sum(pool.rounds)
        discarded += session.metrics()["discarded_episodes"]
        assert session.metrics()["kept_episodes"] == SIZE * len(session.left)
        assert SIZE * (len(trained) + len(session.left)) + discarded == sampled
    assert len(set(trained)) == len(trained)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.data())
def test_a_resumed_run_collects_the_same(every, data):
    cut = data.draw(st.integers(0, len(every)))
    whole, before, after = (Dynamic(3, 5).start(3, SIZE) for _ in range(3))
    given_ = list(enumerate(every))
    expected = [whole.collect(Pool(step, 100 * step, one_in), step) for step, one_in in given_]
    for step, one_in in given_[:cut]:
        before.collect(Pool(step, 100 * step, one_in), step)
    after.load_state_dict(from_plain(json.loads(to_json(to_plain(before.state_dict())))))
    assert [after.collect(Pool(step, 100 * step, one_in), step) for step, one_in in given_[cut:]] == expected[cut:]
    assert after.state_dict() == whole.state_dict()


@pytest.mark.parametrize("parameters", [{"rounds": 0}, {"size": 0}])
def test_bad_parameters_are_refused(parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        Dynamic(**parameters)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({}, "nofilter.* keeps every group, so nothing would ever be discarded"),
        ({"select": "top_p(1.0)"}, "top_p.* keeps every group, so nothing would ever be discarded"),
        ({"select": "top_k(2)", "metric": "entropy"}, "entropy.* needs entropies, which are not there"),
    ],
)
def test_a_filter_that_cannot_say_who_teaches_is_refused(bandit, chosen, message):
    own = {"filter": chosen, "rollout": {**bandit["rollout"], "batch": "dynamic"}}
    with pytest.raises(RequestError, match=message):
        uncollapse.compose({**bandit, **own})
