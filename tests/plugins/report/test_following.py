import math

import pytest
from uncollapse.core.errors import RequestError
from uncollapse.plugins.report.following import Target, follow

SUCCESS = "validation/success"


def records(**series):
    """Records of steps 0, 1, 2, ...; a value of None was logged as null, what is shorter was not logged any more."""
    names = {"success": SUCCESS}
    length = max(map(len, series.values()))
    return [
        {"step": step, **{names.get(name, name): values[step] for name, values in series.items() if step < len(values)}}
        for step in range(length)
    ]


def test_a_value_belongs_to_the_next_measurement_and_never_to_one_of_its_own_step():
    # pairs (x, success): (1, 5), (4, 2), (2, 9): the x of step 3 has nothing after it
    course = follow(records(x=[1, 4, 2, 100], success=[3, 5, 2, 9]), Target(SUCCESS))
    followed = course.metrics["x"]
    assert (followed.pairs, followed.last) == (3, (2, 9))
    # ranks 1 3 2 against 2 1 3
    assert followed.rho == pytest.approx(-0.5)
    assert course.last_step == 3


def test_values_before_the_same_measurement_are_averaged():
    null = None
    # measured at 1, 4, 6: steps 0 | 1 2 3 | 4 5
    course = follow(records(x=[1, 6, 1, 2, 0, 4, 50], success=[null, 0.1, null, null, 0.3, null, 0.2]), Target(SUCCESS))
    followed = course.metrics["x"]
    # means 1, 3 and 2 against 0.1, 0.3 and 0.2
    assert (followed.pairs, followed.last, followed.rho) == (3, (2, 0.2), 1.0)


def test_a_lag_looks_further_ahead():
    x = [5, 3, 8, 1, 9, 2, 7]
    success = [0, 0, 0, *x[:4]]  # success is what x was three steps ago
    assert follow(records(x=x, success=success), Target(SUCCESS, lag=3)).metrics["x"].rho == 1.0
    assert follow(records(x=x, success=success), Target(SUCCESS)).metrics["x"].rho < 0.5
    # measured at 2, 5 and 8 only: with a lag of 2, steps 0 | 1 2 3 | 4 5 6
    sparse = follow(
        records(x=[1, 6, 1, 2, 0, 4, 2, 77, 77], success=[None, None, 1, None, None, 3, None, None, 2]),
        Target(SUCCESS, lag=2),
    ).metrics["x"]
    assert (sparse.pairs, sparse.last, sparse.rho) == (3, (2, 2), 1.0)


def test_what_is_not_finite_is_in_no_pair():
    course = follow(
        records(x=[1, math.nan, 2, None, 3, 4], dead=[math.nan] * 6, success=[0, 1, 9, 2, math.inf, 3]),
        Target(SUCCESS),
    )
    # x of step 1 and 3 are none, and so is success at step 4: 1 -> 1, 2 -> 2, (3 and 4 are before and at the last)
    assert (course.metrics["x"].pairs, course.metrics["x"].rho) == (3, 1.0)
    assert course.logged == {"x", SUCCESS}
    assert set(course.metrics) == {"x"}


def test_the_target_its_error_and_seconds_are_not_compared():
    logged = {f"{SUCCESS}_se": 0.1, "timing_s/step": 2.0, "validation/reward": 1.0, "x_se": 0.2}
    course = follow([{"step": step, SUCCESS: float(step), **logged} for step in range(5)], Target(SUCCESS))
    assert set(course.metrics) == {"validation/reward", "x_se"}
    assert course.logged == {SUCCESS, *logged}


def test_without_enough_pairs_or_with_a_constant_side_there_is_no_correlation():
    few = follow(records(x=[1, 2, 3], success=[1, 2, 3]), Target(SUCCESS)).metrics["x"]
    assert (few.rho, few.pairs, few.why) == (None, 2, "fewer than 3 pairs")
    constant = follow(records(x=[1] * 5, success=[1, 2, 3, 4, 5]), Target(SUCCESS)).metrics["x"]
    assert (constant.rho, constant.at_equal_step, constant.why) == (None, None, "constant")
    flat = follow(records(x=[1, 2, 3, 4, 5], success=[9, 1, 1, 1, 1]), Target(SUCCESS)).metrics["x"]
    assert (flat.rho, flat.why) == (None, "target constant")


def test_means_of_a_constant_are_constant_however_many_steps_they_are_of():
    success = [0.1 * (step % 7) if step in (1, 7, 17, 20, 43, 92) else None for step in range(93)]
    for value in (1e-6, 0.1, 1 / 3, 0.7):
        followed = follow(records(x=[value] * 93, success=success), Target(SUCCESS)).metrics["x"]
        assert (followed.pairs, followed.why) == (6, "constant")


def test_means_of_the_largest_numbers_are_numbers():
    large = [1e308, 1.7e308, 1.5e308]
    success = [None, None, None, 1, None, None, 2, None, None, 3]
    followed = follow(records(x=[*large, 1, 2, 3, -1e308, -1e308, -1.7e308, 0], success=success), Target(SUCCESS))
    assert followed.metrics["x"].rho == -1.0


def test_at_equal_step_what_only_rises_with_the_step_is_nothing():
    success = [0.0, 1.0, 3.0, 2.0, 5.0, 4.0, 6.0]
    ahead = [*success[1:], 0.0]
    course = follow(records(step_itself=[*range(7)], ahead=ahead, success=success), Target(SUCCESS))
    # 6 pairs; ranks of success 1 3 2 5 4 6 against the step: 1 - 6 * 4 / 210
    assert course.metrics["step_itself"].rho == pytest.approx(1 - 24 / 210)
    assert course.metrics["step_itself"].at_equal_step is None
    assert course.metrics["ahead"].at_equal_step == pytest.approx(1.0)


def test_a_trend_that_both_have_is_taken_away():
    # two sequences that rise, and swap their neighbours against each other
    x, follows = [2, 1, 4, 3, 6, 5], [1, 3, 2, 5, 4, 6]
    followed = follow(records(x=[*x, 0], success=[0, *follows]), Target(SUCCESS)).metrics["x"]
    xy, xz, yz = 1 - 6 * 18 / 210, 1 - 6 * 6 / 210, 1 - 6 * 4 / 210
    assert followed.rho == pytest.approx(xy)
    assert followed.at_equal_step == pytest.approx((xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2)))
    assert followed.at_equal_step < 0 < followed.rho


def test_a_run_without_the_target_has_no_pairs():
    course = follow(records(x=[1, 2, 3]), Target(SUCCESS))
    assert (course.last_step, course.metrics, course.logged) == (None, {}, {"x"})
    assert follow([], Target(SUCCESS)).logged == set()


@pytest.mark.parametrize("lag", [0, -1, 1.5, None])
def test_what_follows_is_later(lag):
    with pytest.raises(RequestError, match="lag is"):
        Target(SUCCESS, lag)
