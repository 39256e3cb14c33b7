"""Entropy coefficients that answer the entropy, held to hand-made sequences and to TRL's own rule (tests/peers)."""

import json
import math
from pathlib import Path

import pytest
import uncollapse
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.compose.inner import named_of
from uncollapse.core.errors import RequestError, RunError
from uncollapse.estimators.entropy.feedback import Adaptive, Epo, Pi

PEER = json.loads((Path(__file__).parents[2] / "peers" / "trl_adaptive_entropy.json").read_text())
ENTROPIES = st.lists(st.floats(0, 12), min_size=1, max_size=40)
RULES = st.sampled_from([Adaptive(0.7, 0.05, 0.0, 0.3), Pi(0.7, 0.5, 0.3), Pi(1.0, 0.0, 1.0), Epo(), Epo(1, 1, 0.5)])


def coefs(session, entropies):
    for step, entropy in enumerate(entropies):
        session.update(entropy, step)
        yield session.coef


@pytest.mark.parametrize("case", PEER["cases"], ids=lambda case: case["ours"])
def test_adaptive_applies_what_trl_applies_a_step_later(case):
    rule = named_of("entropy_controller", case["ours"], "entropy.controller").component
    assert rule.needs == {"entropies"}
    found = list(coefs(rule.start(case["coef"], 99), PEER["inputs"]["entropies"]))
    assert found == pytest.approx(case["applied"], abs=1e-12)
    assert any(case["applied"])


def test_adaptive_is_held_within_its_bounds_and_silent_above_the_target():
    session = Adaptive(0.5, 0.25, 0.25, 0.75).start(0.5, 9)
    assert list(coefs(session, [0.4, 0.5, 0.4, 0.6, 0.6, 0.6, 0.6, 0.4])) == [0.75, 0.75, 0.75, 0, 0, 0, 0, 0.5]


def test_pi_by_hand():
    session = Pi(1.0, kp=0.5, ki=0.25, low=-2, high=2).start(0.125, 9)
    # errors 0.5, 0.25, -1; sums 0.5, 0.75, -0.25
    assert list(coefs(session, [0.5, 0.75, 2.0])) == [
        0.125 + 0.25 + 0.125,
        0.125 + 0.125 + 0.1875,
        0.125 - 0.5 - 0.0625,
    ]


def test_pi_does_not_wind_up():
    session = Pi(1.0, kp=0.0, ki=0.25, low=-0.5, high=0.5).start(0.0, 99)
    assert list(coefs(session, [0.0] * 50))[-3:] == [0.5, 0.5, 0.5]
    # 0.5 is a sum of 2: it turns at the first error of the other sign, not 48 steps later
    assert list(coefs(session, [2.0, 2.0])) == [0.25, 0.0]
    low = Pi(1.0, kp=0.0, ki=0.25, low=-0.5, high=0.5).start(0.0, 99)
    assert list(coefs(low, [2.0] * 50 + [0.0]))[-2:] == [-0.5, -0.25]


@given(st.floats(0.2, 3), st.floats(0.2, 3))
def test_pi_brings_a_simple_policy_to_its_target(target, start):
    """A policy whose entropy falls by itself, and rises by the coefficient."""
    session, entropy = Pi(target, kp=0.5, ki=0.1, low=-5, high=5).start(0.0, 400), start
    for step in range(400):
        session.update(entropy, step)
        entropy += 0.5 * session.coef - 0.05
    assert entropy == pytest.approx(target, abs=1e-3)


def test_epo_by_hand():
    session = Epo(weight=0.5).start(0.25, 9)
    # means of the history: none, 1, 0.875, 1.25, 1.25, 1.3; both edges belong to the band
    found = list(coefs(session, [1.0, 0.75, 2.0, 1.25, 1.5, 1.0]))
    assert found == [0.25, 0.75, -0.25, 0.25, 0.25, 0.75]
    assert (session.mean, session.count) == (pytest.approx(1.25), 6)


@given(ENTROPIES)
def test_epo_says_nothing_within_its_band(entropies):
    session = Epo(0.0, 1e9).start(0.1, 99)
    entropies = [entropy + 1e-6 for entropy in entropies]
    assert set(coefs(session, entropies)) == {0.1}
    assert session.mean == pytest.approx(sum(entropies) / len(entropies))


@given(RULES, ENTROPIES, st.data())
def test_a_resumed_controller_goes_on_bit_for_bit(rule, entropies, data):
    cut = data.draw(st.integers(0, len(entropies)))
    whole, before, after = (rule.start(0.0625, 99) for _ in range(3))
    expected = list(coefs(whole, entropies))
    list(coefs(before, entropies[:cut]))
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert after.coef == before.coef
    assert list(coefs(after, entropies[cut:])) == expected[cut:]
    assert after.state_dict() == whole.state_dict()


@given(ENTROPIES)
def test_the_coefficient_never_leaves_its_bounds(entropies):
    assert all(-0.2 <= coef <= 0.3 for coef in coefs(Pi(1.0, 3.0, 2.0, -0.2, 0.3).start(0.1, 9), entropies))
    assert all(0 <= coef <= 0.3 for coef in coefs(Adaptive(1.0, 0.1, 0.1, 0.3).start(0.2, 9), entropies))


@pytest.mark.parametrize("rule", [Adaptive(), Pi(1.0), Epo()], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("entropy", [math.nan, math.inf])
def test_an_entropy_that_is_not_finite_is_refused_and_moves_nothing(rule, entropy):
    session = rule.start(0.01, 9)
    session.update(0.1, 0)
    state = session.state_dict()
    with pytest.raises(RunError, match="the entropy of the policy is"):
        session.update(entropy, 1)
    assert session.state_dict() == state


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Adaptive(target=0), "target"),
        (lambda: Adaptive(delta=-1), "delta"),
        (lambda: Adaptive(low=0.5, high=0.4), "high must be finite and at least low, 0.5, got 0.4"),
        (lambda: Adaptive(high=math.inf), "high must be finite"),
        (lambda: Pi(math.inf), "target must be finite"),
        (lambda: Pi(1.0, kp=-1), "kp"),
        (lambda: Pi(1.0, kp=0, ki=0), "nothing would move"),
        (lambda: Pi(1.0, low=1), "at least low, 1, got 0.1"),
        (lambda: Epo(low=1.1), "low"),
        (lambda: Epo(high=0.9), "high"),
        (lambda: Epo(weight=0), "weight"),
    ],
)
def test_bad_parameters_are_refused(made, message):
    with pytest.raises(ValueError, match=message):
        made()


@pytest.mark.parametrize(
    ("coef", "controller", "message"),
    [
        (
            -0.1,
            "adaptive",
            r"it holds the coefficient in \[0.0, 1.0\], and entropy.coef, with which it begins, is -0.1",
        ),
        (0.2, "pi(0.5)", r"it holds the coefficient in \[-0.1, 0.1\]"),
        (0.2, "schedule(first=4)", "first is step 4, and the run of 4 steps never comes to it"),
    ],
)
def test_an_experiment_that_such_a_controller_cannot_steer_is_refused(bandit, coef, controller, message):
    given = {**bandit, "entropy": {"coef": coef, "controller": controller}}
    del given["entropy_coeff"]
    with pytest.raises(RequestError, match=message):
        uncollapse.compose(given)


def test_the_weight_of_the_band_is_small_unless_it_is_chosen():
    assert list(coefs(Epo().start(0.0, 9), [1.0, 0.5, 5.0])) == [0.0, 0.01, -0.01]


def test_a_schedule_that_begins_before_the_run_ends_is_accepted(bandit):
    given_ = {**bandit, "entropy": {"coef": 0.1, "controller": "schedule(first=3)"}}
    del given_["entropy_coeff"]
    assert uncollapse.compose(given_).entropy.controller.component.first == 3
