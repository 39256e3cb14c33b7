"""Which tasks come next, by hand."""

import json

import attrs
import pytest
import uncollapse
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.components import Env, Environment
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.plugins.rollout.sampler_state import group_of
from uncollapse.plugins.rollout.success_band import SuccessBand
from uncollapse.testing import samples


@attrs.frozen
class World(Environment):
    """An environment that nobody plays."""

    tasks: int | None = None
    instruction = "Wait."
    actions = ("Wait",)

    def make(self, seed: int, member: int = 0) -> Env:
        raise NotImplementedError


def started(name, tasks=None, first=0, seed=7, **parameters):
    return registry().create("task_sampler", name, **parameters).start(first, World(tasks), seed)


def steps(session, counts):
    for step, count in enumerate(counts):
        session.begin_step(step)
        yield session.draw(count)


COUNTS = st.lists(st.integers(1, 7), min_size=1, max_size=12)


@given(st.integers(1, 9), st.integers(0, 50), st.integers(0, 9), COUNTS)
def test_each_epoch_has_each_task_once(tasks, first, seed, counts):
    drawn = [number for part in steps(started("shuffled", tasks, first, seed), counts) for number in part]
    assert len(set(drawn)) == len(drawn) == sum(counts)
    for begin in range(0, len(drawn) - tasks + 1, tasks):
        epoch = drawn[begin : begin + tasks]
        assert sorted(number % tasks for number in epoch) == list(range(tasks))
        # the seeds of an epoch are the next ones after those of the epoch before
        assert sorted(epoch) == list(range(first + begin, first + begin + tasks))


def test_epochs_and_seeds_differ_in_their_order():
    orders = [[number % 20 for number in part] for part in steps(started("shuffled", 20), [20] * 3)]
    orders.append(list(range(20)))
    orders += [[number % 20 for number in part] for part in steps(started("shuffled", 20, seed=8), [20])]
    assert len({tuple(order) for order in orders}) == 5


def test_the_order_is_the_same_in_every_version():
    """A run that is resumed by a later version goes on in the same order."""
    assert [list(part) for part in steps(started("shuffled", 5, first=10), [3, 3, 4])] == [
        [10, 11, 13],
        [12, 14, 17],
        [18, 19, 15, 16],
    ]


def test_tasks_without_end_come_as_they_come():
    assert list(steps(started("shuffled", None, first=40), [3, 1, 2])) == [[40, 41, 42], [43], [44, 45]]


@given(st.one_of(st.none(), st.integers(1, 9)), COUNTS, st.data())
def test_a_resumed_run_draws_the_same_tasks(tasks, counts, data):
    cut = data.draw(st.integers(0, len(counts)))
    whole, before, after = (started("shuffled", tasks, 3) for _ in range(3))
    expected = list(steps(whole, counts))
    list(steps(before, counts[:cut]))
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert list(steps(after, counts[cut:])) == expected[cut:]


def test_what_is_shuffled_is_not_foreseen():
    assert registry().create("task_sampler", "shuffled").foreseen(0, 8) is None


# --- success_band -----------------------------------------------------------------------------------------------------


def played(seed, rate):
    """A group of four episodes with this success rate."""
    group = samples.group(seed, 0, 4)
    won = [
        attrs.evolve(episode, stop="success" if member < 4 * rate else "done")
        for member, episode in enumerate(group.episodes)
    ]
    return group_of(won, 0)


def lived(session, rates, counts, begin=0):
    """Draw and learn in steps; each task has its success rate."""
    for step, count in enumerate(counts, begin):
        session.begin_step(step)
        drawn = session.draw(count)
        session.learn([played(seed, rates[seed % len(rates)]) for seed in drawn])
        yield drawn


RATES = (0.0, 0.25, 0.5, 0.75, 1.0)


def test_tasks_of_the_band_come_again_and_the_others_only_in_their_turn():
    session = started("success_band", 5, share=1.0)
    # nothing is known in the first step; then 1, 2 and 3 are in the band, and they alone are played
    first, *later = lived(session, RATES, [5, 3, 3, 3])
    assert sorted(first) == [0, 1, 2, 3, 4]
    assert [sorted(drawn) for drawn in later] == [[1, 2, 3]] * 3
    # a step of more groups goes on with new seeds
    session.begin_step(9)
    assert sorted(session.draw(5))[:3] == [1, 2, 3]
    assert session.drawn == 7


def test_a_task_that_leaves_the_band_stays_away():
    session = started("success_band", 5, share=1.0)
    session.learn([played(seed, 0.5) for seed in (0, 1, 2)])
    session.learn([played(1, 1.0), played(7, 0.0)])  # 7 is task 2, too
    assert session.band == {0: 0}
    session.learn([played(11, 0.25)])
    assert session.band == {0: 0, 1: 11}  # the seed is the one of the last time


def test_the_edges_belong_to_the_band():
    session = started("success_band", None, low=0.25, high=0.75)
    session.learn([played(seed, rate) for seed, rate in enumerate(RATES)])
    assert session.state_dict() == {"drawn": 0, "band": [1, 2, 3]}


def test_only_the_last_tasks_are_remembered():
    session = started("success_band", None, memory=2)
    session.learn([played(seed, 0.5) for seed in (3, 1, 2)])
    session.learn([played(1, 0.5)])
    assert list(session.band) == [2, 1]


def test_the_share_is_that_of_the_draws():
    session = started("success_band", 1000, share=0.3)
    session.learn([played(seed, 0.5) for seed in range(2000, 3000)])
    session.begin_step(0)
    again = sum(seed >= 2000 for seed in session.draw(600))
    assert again == pytest.approx(180, abs=4 * (600 * 0.3 * 0.7) ** 0.5)


@given(st.one_of(st.none(), st.integers(1, 9)), COUNTS, st.floats(0.1, 1), st.data())
def test_a_band_draws_no_seed_twice_in_a_step_and_is_resumed_as_it_was(tasks, counts, share, data):
    cut = data.draw(st.integers(0, len(counts)))
    whole, before, after = (started("success_band", tasks, 3, share=share) for _ in range(3))
    expected = list(lived(whole, RATES, counts))
    assert all(len(set(drawn)) == len(drawn) for drawn in expected)
    list(lived(before, RATES, counts[:cut]))
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert list(lived(after, RATES, counts[cut:], begin=cut)) == expected[cut:]
    assert after.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"low": -0.1}, "low"),
        ({"high": 1.1}, "high"),
        ({"low": 0.5, "high": 0.4}, "high must be at least low, 0.5, got 0.4"),
        ({"share": 0}, "share"),
        ({"memory": 0}, "memory"),
    ],
)
def test_what_is_no_band_is_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        SuccessBand(**parameters)


def test_a_band_that_no_group_can_be_in_is_refused(bandit):
    def composed(tasks):
        return uncollapse.compose({**bandit, "rollout": {**bandit["rollout"], "tasks": tasks}})

    with pytest.raises(
        RequestError, match=r"no group of rollout.group_size, 2, can have a success rate from 0.6 to 0.9"
    ):
        composed("success_band(0.6, 0.9)")
    assert composed("success_band").rollout.tasks.component == SuccessBand()
