"""Which tasks come next, by hand."""

import json

import attrs
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.components import Env, Environment
from uncollapse.core.registry import registry


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
