"""The detectors of entropy, form and KL."""

import json
from types import SimpleNamespace

import pytest
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.plugins.training.assemble import DetectorContext

ENTROPY, INVALID, THINKING = "actor/entropy", "train/invalid_turn_rate", "collapse/valid_thinking_rate"
LENGTH, KL, UPDATE = "train/response_length", "actor/kl", "actor/ppo_kl"


def session_of(name, **parameters):
    return registry().create("collapse", name, **parameters).start(DetectorContext(None, tokenizer=None))


def first(session, records):
    """(step, verdict) of the first verdict; steps count from 1."""
    for step, metrics in enumerate(records, start=1):
        if verdict := session.judge(step, metrics):
            return step, verdict
    return None, None


def series(metric, values):
    return [{} if value is None else {metric: value} for value in values]


def test_entropy_collapse_needs_a_whole_window_below_its_threshold():
    step, verdict = first(session_of("entropy_collapse"), series(ENTROPY, [1.0, 3.0, 0.1, 0.3, 0.19, 0.19, 0.19]))
    assert step == 7
    assert verdict.evidence == {
        "metric": ENTROPY,
        "baseline": 2.0,
        "threshold": pytest.approx(0.2),
        "last": [0.19, 0.19, 0.19],
    }
    assert verdict.stop


@pytest.mark.parametrize("values", [[2.0, 2.0, *[0.2] * 9], [2.0, 2.0, *[0.1, 0.1, 0.3] * 5], [2.0], [0.0] * 9])
def test_entropy_that_has_not_collapsed(values):
    assert first(session_of("entropy_collapse"), series(ENTROPY, values)) == (None, None)


def test_entropy_explosion():
    assert first(session_of("entropy_explosion"), series(ENTROPY, [1, 1, 3.0, 3.0, 3.0, 9]))[0] is None
    step, verdict = first(session_of("entropy_explosion", ratio=2.0), series(ENTROPY, [1, 1, 2.1, None, 2.1, 2.1]))
    assert (step, verdict.detector, verdict.evidence["threshold"]) == (6, "entropy_explosion", 2.0)


@pytest.mark.parametrize(
    ("metric", "values", "condition", "spoke"),
    [
        (INVALID, [0.3, 0.6, 0.4, 0.6, 0.6, 0.6], "invalid", 6),
        (INVALID, [0.0, 1.0, 1.0, 1.0], "invalid", 4),  # the first update ruined it
        (THINKING, [0.7, None, 0.4, None, 0.4, 0.4], "thinking", 6),  # counted when it is measured
        (LENGTH, [100, 100, 19, 19, 19], "short", 5),
        (LENGTH, [100, 100, 501, 501, 501], "long", 5),
    ],
)
def test_format_collapse(metric, values, condition, spoke):
    step, verdict = first(session_of("format_collapse"), series(metric, values))
    assert (step, verdict.evidence["condition"], verdict.evidence[metric]) == (spoke, condition, values[-1])


def test_form_that_holds():
    records = [{INVALID: 0.5, THINKING: 0.5, LENGTH: value} for value in [100, 100, *[20] * 5, *[500] * 5]]
    assert first(session_of("format_collapse"), records) == (None, None)
    never = session_of("format_collapse", max_invalid=1, min_thinking=0, min_length=0)
    assert first(never, [{INVALID: 1.0, THINKING: 0.0, LENGTH: value} for value in [9, 9, 0, 0, 0, 0]])[0] is None


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        (INVALID, [1.0] * 30),  # never had a form
        (INVALID, [1.0] * 20 + [0.8, 0.6, 0.6, 0.6, 0.4]),  # gains it
        (INVALID, [0.9] * 20 + [0.99] * 5),  # had little, below the limit
        (INVALID, [0.51, 0.49, 0.51, 0.51, 0.51, 0.51]),  # begins on the threshold
        (THINKING, [0.0] * 30),
    ],
)
def test_form_that_was_never_there_is_not_lost(metric, values):
    assert first(session_of("format_collapse"), series(metric, values)) == (None, None)


def test_form_that_was_gained_late_can_be_lost():
    step, verdict = first(session_of("format_collapse"), series(INVALID, [1.0] * 9 + [0.1, 0.0] + [0.9] * 3))
    assert (step, verdict.evidence["condition"]) == (14, "invalid")


SPREAD, TOLD = "rollout/in_group_reward_std", "collapse_trajectory_sample/mi_estimate"


def measured(estimates, error=0.01):
    return [{TOLD: value, f"{TOLD}_se": error} for value in estimates]


@pytest.mark.parametrize(
    ("records", "step", "condition"),
    [
        (series(INVALID, [1.0] * 45), 20, "form"),
        (series(SPREAD, [1e-9] * 45), 20, "spread"),
        (measured([0.0, 0.015, -0.01, 0.02]), 4, "information"),
    ],
)
def test_a_run_that_never_had_what_it_could_learn_from(records, step, condition):
    said, verdict = first(session_of("no_signal"), records)
    assert (said, verdict.detector, verdict.evidence) == (step, "no_signal", {"conditions": [condition]})
    assert not verdict.stop
    assert first(session_of("no_signal", stop=True), records)[1].stop


@pytest.mark.parametrize(
    "records",
    [
        series(INVALID, [1.0] * 19 + [0.99] + [1.0] * 45),
        series(SPREAD, [0.0] * 19 + [0.01] + [0.0] * 45),
        measured([0.0, 0.0, 0.021, 0.0, 0.0, 0.0, 0.0]),
        [{TOLD: 0.0}] * 9,  # without an error nothing can be said
        [{}] * 45,
    ],
)
def test_a_run_that_had_it_once_has_something_to_lose(records):
    assert first(session_of("no_signal"), records) == (None, None)


def test_single_episodes_have_no_spread_to_look_for():
    alone = SimpleNamespace(rollout=SimpleNamespace(group_size=1))
    session = registry().create("collapse", "no_signal").start(DetectorContext(alone, tokenizer=None))
    assert first(session, series(SPREAD, [0.0] * 45)) == (None, None)


@pytest.mark.parametrize(("metric", "limit"), [(KL, 2.0), (UPDATE, 0.02)])
def test_kl_runaway(metric, limit):
    values = [2 * limit, limit, -2 * limit, 2 * limit]  # estimates may be negative
    step, verdict = first(session_of("kl_runaway", window=2), series(metric, values))
    assert (step, verdict.evidence) == (4, {"metric": metric, "threshold": limit, "last": 2 * limit})


@pytest.mark.parametrize(
    ("name", "records"),
    [
        ("entropy_collapse", series(ENTROPY, [2, 2, 0.1, 0.1, 0.1])),
        ("entropy_explosion", series(ENTROPY, [1, 1, 9, 9, 9])),
        ("format_collapse", [{LENGTH: v, INVALID: 0} for v in [9, 9, 1, 1, 1]]),
        ("format_collapse", [{INVALID: v} for v in [0, 0.2, 1, 1, 1]]),
        ("no_signal", [{INVALID: 1.0, SPREAD: 0.0}] * 20),
        ("kl_runaway", series(KL, [9, 9, 9, 9, 9])),
    ],
)
def test_state_survives_a_resume_and_a_verdict_can_be_told_not_to_stop(name, records):
    for cut in range(len(records)):
        before = session_of(name)
        assert first(before, records[:cut]) == (None, None)
        after = session_of(name, stop=False)
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        step, verdict = first(after, records[cut:])
        assert step == len(records) - cut
        assert not verdict.stop


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("entropy_collapse", {"ratio": 1.0}),
        ("entropy_explosion", {"ratio": 1.0}),
        ("entropy_collapse", {"window": 0}),
        ("format_collapse", {"max_invalid": 1.5}),
        ("kl_runaway", {"max_kl": 0}),
    ],
)
def test_thresholds_that_make_no_sense(name, parameters):
    with pytest.raises(RequestError, match=next(iter(parameters))):
        registry().create("collapse", name, **parameters)


@pytest.mark.parametrize(
    ("name", "metric", "values"), [("kl_runaway", KL, [9] * 5), ("format_collapse", INVALID, [0, 0, 1, 1, 1])]
)
def test_a_step_that_does_not_measure_it_gets_no_verdict(name, metric, values):
    session = session_of(name, stop=False)
    assert first(session, series(metric, values))[0] == len(values)
    assert session.judge(9, {}) is None  # an empty filter trains nothing and logs no update
    assert session.judge(10, {metric: values[-1]}) is not None


def test_an_entropy_that_was_nothing_cannot_explode():
    assert first(session_of("entropy_explosion"), series(ENTROPY, [0, 0, 1e-9, 1e-9, 1e-9])) == (None, None)
