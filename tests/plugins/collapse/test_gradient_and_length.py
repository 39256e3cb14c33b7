"""The detectors of gradient spikes and of the length of responses."""

import json
import math
import random

import attrs
import pytest
from judging import first, series, session_of
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry

NORM, LENGTH, TURNS = "actor/grad_norm", "train/response_length", "train/turns"


def test_a_gradient_spike_is_a_whole_window_above_five_times_the_median():
    step, verdict = first(session_of("gradient_spike"), series(NORM, [*[0.9, 1.1] * 5, 5.1, 80.0, 5.1]))
    assert step == 13
    assert verdict.evidence == {"metric": NORM, "baseline": 1.0, "threshold": 5.0, "last": [5.1, 80.0, 5.1]}
    assert verdict.reason == "the gradient norm stayed above 5 times its usual size for 3 steps"
    assert not verdict.stop


@pytest.mark.parametrize(
    "norms",
    [
        [1.0] * 10 + [5.0] * 20,  # at the limit
        ([1.0] * 10 + [1000.0, 1000.0]) * 4,  # outliers that do not stay
        [1.0] * 4 + [100.0] * 30,  # most of the first ten steps are what is usual
        [1.1**step for step in range(200)],  # slow growth
        [2.0**-step for step in range(200)],  # a decay, however fast
        [0.0] * 30,  # nothing to learn from
    ],
)
def test_gradients_that_do_not_spike(norms):
    assert first(session_of("gradient_spike"), series(NORM, norms)) == (None, None)


def test_steps_without_a_gradient_are_neither_usual_nor_a_pause():
    norms = [*[1.0, 0.0, None] * 10, 6.0, None, 6.0, 0.0, 6.0]
    step, verdict = first(session_of("gradient_spike"), series(NORM, norms))
    assert (step, verdict.evidence["baseline"]) == (35, 1.0)


def test_what_is_usual_moves_with_the_run_and_not_with_the_spike():
    spoke = first(session_of("gradient_spike"), series(NORM, [1.0] * 10 + [4.0] * 10 + [6.0] * 10 + [24.0] * 9))
    assert spoke == (None, None)
    session = session_of("gradient_spike")
    records = series(NORM, [1.0] * 10 + [9.0] * 40)
    assert first(session, records)[0] == 13
    assert session.judge(60, {NORM: 9.0}).evidence["baseline"] == 1.0  # it stays up


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_speaks_at_once_and_is_not_remembered(norm):
    session = session_of("gradient_spike")
    verdict = session.judge(1, {NORM: norm})
    assert (verdict.step, verdict.reason) == (1, "the gradient is not finite")
    json.dumps(verdict.evidence, allow_nan=False)
    assert session.state_dict() == {"usual": [], "high": []}


def test_healthy_noise_rarely_looks_like_a_spike():
    """Norms that vary by a factor of 2 either way (log-normal): fewer than 2 in 100 runs of 400 steps."""
    rng = random.Random(0)
    runs = [[math.exp(rng.gauss(0, math.log(2))) for _ in range(400)] for _ in range(300)]
    assert sum(first(session_of("gradient_spike"), series(NORM, norms))[0] is not None for norms in runs) < 6


@pytest.mark.parametrize(
    ("lengths", "condition", "spoke"),
    [
        ([90, 110, 100, 100, 100, *[49] * 5], "short", 10),
        ([90, 110, 100, 100, 100, *[201] * 5], "long", 10),
        ([100] * 5 + [49] * 4 + [50] + [49] * 5, "short", 15),
    ],
)
def test_length_drift(lengths, condition, spoke):
    step, verdict = first(session_of("length_drift"), series(LENGTH, lengths))
    side, ratio = {"short": ("below", 0.5), "long": ("above", 2)}[condition]
    assert step == spoke
    evidence = {"condition": condition, "early_length": 100, "threshold": 100 * ratio, "length": lengths[-1]}
    assert (verdict.evidence, verdict.stop) == (evidence, False)
    assert verdict.reason == f"responses stayed {side} {ratio} of their early length for 5 steps"


@pytest.mark.parametrize(
    "lengths",
    [
        [100] * 5 + [50] * 9 + [200] * 9,  # on the edges of the band
        [100] * 5 + ([10] * 4 + [1000] * 4) * 5,  # never five on one side
        [100] * 5 + ([10] * 4 + [100]) * 5,
        [0] * 5 + [7] * 30,  # nothing to compare with
        [100] * 4,
    ],
)
def test_lengths_within_the_band(lengths):
    assert first(session_of("length_drift"), series(LENGTH, lengths)) == (None, None)


def test_an_agent_that_needs_fewer_turns_does_not_write_shorter_responses():
    learning = [{LENGTH: 20.0 * turns, TURNS: turns} for turns in [5.0] * 5 + [2.0] * 30]
    assert first(session_of("length_drift"), learning) == (None, None)
    shorter = [{LENGTH: tokens * turns, TURNS: turns} for tokens, turns in [(20, 2.0)] * 5 + [(9, 5.0)] * 5]
    step, verdict = first(session_of("length_drift"), shorter)
    assert (step, verdict.evidence["length"], verdict.evidence["early_length"]) == (10, 9, 20)


def test_steps_that_log_no_length_count_for_nothing():
    lengths = [100, None] * 5 + [None, 49] * 4 + [None]
    session = session_of("length_drift")
    assert first(session, series(LENGTH, lengths)) == (None, None)
    assert session.judge(99, {}) is None
    assert session.judge(100, {LENGTH: 49}).step == 100
    assert session.judge(101, {}) is None


RECORDS = {
    "gradient_spike": [*series(NORM, [1.0, 2.0] * 5), *series(NORM, [20.0] * 3)],
    "length_drift": [{LENGTH: value, TURNS: 2.0} for value in [10] * 5 + [30] * 5],
}


@pytest.mark.parametrize("name", RECORDS)
def test_state_survives_a_resume_and_a_verdict_can_be_told_to_stop(name):
    records = RECORDS[name]
    for cut in range(len(records)):
        before = session_of(name)
        assert first(before, records[:cut]) == (None, None)
        after = session_of(name, stop=True)
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        step, verdict = first(after, records[cut:])
        assert (step, verdict.stop, verdict.detector) == (len(records) - cut, True, name)


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("gradient_spike", {"ratio": 5.0, "window": 3, "baseline_steps": 10, "stop": False}),
        ("length_drift", {"min_ratio": 0.5, "max_ratio": 2.0, "window": 5, "baseline_steps": 5, "stop": False}),
    ],
)
def test_what_is_watched_for_where_nothing_is_said(name, defaults):
    assert attrs.asdict(registry().create("collapse", name)) == defaults


@pytest.mark.parametrize(
    ("name", "parameter", "allowed", "refused"),
    [
        ("gradient_spike", "ratio", (1.001, 100), (1, 0.5)),
        ("gradient_spike", "window", (1, 9), (0, -1)),
        ("gradient_spike", "baseline_steps", (1, 9), (0, -1)),
        ("length_drift", "min_ratio", (0, 0.999), (-0.001, 1)),
        ("length_drift", "max_ratio", (1.001, 100), (1, 0)),
        ("length_drift", "window", (1, 9), (0, -1)),
        ("length_drift", "baseline_steps", (1, 9), (0, -1)),
    ],
)
def test_thresholds_that_make_no_sense_are_refused_and_all_others_are_not(name, parameter, allowed, refused):
    for value in allowed:
        assert getattr(registry().create("collapse", name, **{parameter: value}), parameter) == value
    for value in refused:
        with pytest.raises(RequestError, match=f"'{parameter}' must be"):
            registry().create("collapse", name, **{parameter: value})
