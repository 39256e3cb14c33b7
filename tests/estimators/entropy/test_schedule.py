"""The entropy coefficient by the clock."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.compose.inner import named_of
from uncollapse.estimators.entropy.schedule import Schedule

SHAPES = st.sampled_from(["linear", "cosine", "steps"])


def coefs(rule, coef, steps):
    session = rule.start(coef, steps)
    for step in range(steps):
        session.update(math.nan, step)
        yield session.coef


@pytest.mark.parametrize(
    ("spelled", "coef", "steps", "expected"),
    [
        ("schedule", 0.4, 5, [0.4, 0.3, 0.2, 0.1, 0.0]),
        ("schedule(end=0.8)", 0.4, 3, [0.4, 0.6, 0.8]),
        ("schedule(first=1, last=3, end=-0.2)", 0.2, 6, [0.2, 0.2, 0.0, -0.2, -0.2, -0.2]),
        ("schedule(last=9)", 0.9, 3, [0.9, 0.8, 0.7]),
        ("schedule(cosine)", 0.4, 5, [0.4, 0.2 + 0.2 * math.sqrt(0.5), 0.2, 0.2 - 0.2 * math.sqrt(0.5), 0.0]),
        ("schedule(steps, stairs=1)", 0.4, 4, [0.4, 0.4, 0.0, 0.0]),
        ("schedule(steps, stairs=2)", 0.4, 6, [0.4, 0.4, 0.2, 0.2, 0.0, 0.0]),
        ("schedule(steps, stairs=4)", 0.4, 3, [0.4, 0.3, 0.0]),
        ("schedule", 0.4, 1, [0.4]),
    ],
)
def test_it_goes_the_way_that_is_worked_out_by_hand(spelled, coef, steps, expected):
    rule = named_of("entropy_controller", spelled, "entropy.controller").component
    assert list(coefs(rule, coef, steps)) == pytest.approx(expected, abs=1e-12)
    assert not rule.needs
    assert not rule.idle


@given(SHAPES, st.floats(-1, 1), st.floats(-1, 1), st.integers(2, 30), st.integers(1, 9))
def test_it_begins_at_the_coefficient_ends_at_the_end_and_never_turns(shape, begin, end, steps, stairs):
    way = list(coefs(Schedule(shape, end, stairs=stairs), begin, steps))
    assert way[0] == pytest.approx(begin, abs=1e-12)
    assert way[-1] == pytest.approx(end, abs=1e-12)
    rising = [later - earlier for earlier, later in pairwise(way)]
    assert all(part * (end - begin) >= -1e-12 for part in rising)


@given(SHAPES, st.floats(-1, 1), st.floats(-1, 1), st.integers(1, 20), st.data())
def test_a_resumed_run_goes_the_same_way(shape, begin, end, steps, data):
    rule = Schedule(shape, end)
    whole, cut = list(coefs(rule, begin, steps)), data.draw(st.integers(0, steps - 1))
    before, after = rule.start(begin, steps), rule.start(begin, steps)
    for step in range(cut):
        before.update(math.nan, step)
    after.load_state_dict(before.state_dict())
    assert after.coef == before.coef
    for step in range(cut, steps):
        after.update(math.nan, step)
        assert after.coef == whole[step]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"shape": "square"}, "shape"),
        ({"end": math.inf}, "end must be finite"),
        ({"first": -1}, "first"),
        ({"first": 5, "last": 5}, "last must be more than first, 5, got 5"),
        ({"last": 0}, "last"),
        ({"stairs": 0}, "stairs"),
    ],
)
def test_what_is_no_schedule_is_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**parameters)
