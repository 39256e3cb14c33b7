from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.errors import RunError
from uncollapse.estimators.kl.controllers import Adaptive, Fixed, Refresh


def experiment(coef=0.1, groups=8, group_size=16, placement="reward"):
    return SimpleNamespace(
        kl=SimpleNamespace(coef=coef, placement=placement),
        rollout=SimpleNamespace(groups=groups, group_size=group_size),
        trainer=SimpleNamespace(steps=200),
    )


def test_fixed_stays():
    session = Fixed().start(0.01)
    session.update(99.0, 128)
    session.load_state_dict(session.state_dict())
    assert session.coef == 0.01


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (0.1, 1),
        (0.11, 1 + 0.1 * 128 / 10000),
        (0.09, 1 - 0.1 * 128 / 10000),
        (5.0, 1 + 0.2 * 128 / 10000),
        (0.0, 1 - 0.2 * 128 / 10000),
        (-1.0, 1 - 0.2 * 128 / 10000),
    ],
)
def test_adaptive_moves_towards_the_target(kl, factor):
    session = Adaptive().start(0.001)
    session.update(kl, 128)
    assert session.coef == pytest.approx(0.001 * factor, rel=1e-12)


def test_steps_multiply():
    session = Adaptive(target=0.5, horizon=100).start(1.0)
    session.update(1.0, 10)
    session.update(0.45, 20)
    assert session.coef == pytest.approx(1.02 * 0.98)


@pytest.mark.parametrize("kl", [float("nan"), float("inf")])
def test_adaptive_refuses_a_kl_that_is_not_finite_and_keeps_its_coefficient(kl):
    session = Adaptive().start(0.001)
    with pytest.raises(RunError, match="KL"):
        session.update(kl, 128)
    assert session.coef == 0.001


def test_adaptive_resumes_where_it_was():
    first, second = Adaptive().start(0.001), Adaptive().start(0.001)
    first.update(5.0, 128)
    second.load_state_dict(first.state_dict())
    assert second.coef == first.coef != 0.001


def test_adaptive_needs_a_coefficient_to_start_from():
    assert list(Adaptive().check(experiment())) == []
    assert list(Adaptive().check(experiment(placement="loss"))) == []
    (reason,) = Adaptive().check(experiment(coef=0.0))
    assert "kl.coef" in reason


def test_adaptive_needs_a_horizon_beyond_a_fifth_of_a_step():
    assert list(Adaptive(horizon=25.7).check(experiment())) == []
    for horizon in (25, 0.2 * 128):  # with the last one the coefficient could become 0
        (reason,) = Adaptive(horizon=horizon).check(experiment())
        assert "horizon" in reason


def test_a_small_horizon_is_a_parameter_like_any_other():
    session = Adaptive(target=1.0, horizon=0.5).start(1.0)
    session.update(1.1, 1)
    assert session.coef == pytest.approx(1 + 0.1 / 0.5)


@pytest.mark.parametrize("params", [{"target": 0}, {"horizon": 0}, {"horizon": -1}])
def test_parameters_are_checked(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        Adaptive(**params)


@given(kls=st.lists(st.floats(-10, 10), max_size=20), episodes=st.integers(1, 49_999))
def test_the_coefficient_stays_positive(kls, episodes):
    session = Adaptive().start(0.001)
    for kl in kls:
        session.update(kl, episodes)
    assert session.coef > 0


@pytest.mark.parametrize("name", ["target", "horizon"])
def test_targets_and_horizons_are_positive_and_finite(name):
    assert getattr(Adaptive(**{name: 0.5}), name) == 0.5
    for value in (0.0, -0.5, float("inf")):
        with pytest.raises(ValueError, match=name):
            Adaptive(**{name: value})


def test_a_horizon_at_which_a_step_could_take_the_whole_coefficient_is_refused():
    for episodes, refused in ((124, False), (125, True), (126, True)):
        problems = list(Adaptive(horizon=25).check(experiment(groups=1, group_size=episodes)))
        assert bool(problems) == refused, episodes


def shares(controller, steps):
    session = controller.start(0.1)
    return [session.refresh(step) for step in range(1, steps + 1)]


def test_only_refresh_moves_the_reference():
    assert shares(Fixed(), 4) == shares(Adaptive(), 4) == [None] * 4
    assert Fixed().moves_reference == Adaptive().moves_reference == "never"
    assert shares(Refresh(3, 0.25), 7) == [None, None, 0.25, None, None, 0.25, None]
    assert (Refresh(3, 0.25).moves_reference, Refresh(3, 1).moves_reference) == ("towards_policy", "to_policy")


def test_the_coefficient_of_refresh_is_that_of_the_controller_inside():
    session, alone = Refresh(2, of="adaptive(0.5, 100)").start(1.0), Adaptive(0.5, 100).start(1.0)
    for each in (session, alone):
        each.update(1.0, 10)
    assert session.coef == alone.coef == pytest.approx(1.02)
    again = Refresh(2, of="adaptive(0.5, 100)").start(1.0)
    again.load_state_dict(session.state_dict())
    assert again.coef == session.coef
    assert Refresh(2).start(0.3).coef == 0.3


def test_two_moves_after_the_same_step_are_one():
    # 0.5 * policy + 0.5 * (0.25 * policy + 0.75 * reference) = 0.625 * policy + 0.375 * reference
    assert shares(Refresh(2, 0.5, of=Refresh(3, 0.25)), 6) == [None, 0.5, 0.25, 0.5, None, 0.625]
    assert Refresh(2, 1, of=Refresh(3, 0.25)).moves_reference == "towards_policy"
    assert Refresh(2, 1, of=Refresh(3, 1)).moves_reference == "to_policy"


@given(alpha=st.floats(1e-30, 1), other=st.floats(1e-30, 1))
def test_a_share_of_two_moves_is_one_and_whole_where_either_is(alpha, other):
    (share,) = shares(Refresh(1, alpha, of=Refresh(1, other)), 1)
    assert max(alpha, other) * (1 - 1e-15) <= share <= 1
    for whole in (Refresh(1, alpha, of=Refresh(1, 1)), Refresh(1, 1, of=Refresh(1, other))):
        assert shares(whole, 1) == [1.0]


def test_a_reference_must_move_before_the_last_step():
    assert list(Refresh(199).check(experiment())) == []
    (reason,) = Refresh(200).check(experiment())
    assert reason == "it first moves the reference after step 200, and the run ends after 200: lower every"
