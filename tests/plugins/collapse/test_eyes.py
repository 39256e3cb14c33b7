"""The detectors of entropy, form and KL."""

import json
from types import SimpleNamespace

import attrs
import pytest
from judging import first, series, session_of
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.plugins.training.assemble import DetectorContext

ENTROPY, INVALID, THINKING = "actor/entropy", "train/share_of_turns_invalid", "collapse/valid_thinking_rate"
LENGTH, KL, UPDATE = "train/response_length", "actor/kl", "actor/ppo_kl"


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


def test_the_reason_says_on_which_side_and_how_long_the_entropy_stayed():
    below = first(session_of("entropy_collapse"), series(ENTROPY, [2, 2, 0.1, 0.1, 0.1]))[1].reason
    assert below == "the token entropy stayed below 0.1 of its early value for 3 steps"
    above = first(session_of("entropy_explosion"), series(ENTROPY, [2, 2, 7, 7, 7]))[1].reason
    assert above == "the token entropy stayed above 3 of its early value for 3 steps"


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


def test_form_at_its_limit_was_there_and_can_be_lost():
    """Half of the turns are within the limit of a half."""
    step, verdict = first(session_of("format_collapse"), series(INVALID, [0.5, 1.0, 1.0, 1.0]))
    assert (step, verdict.evidence["condition"]) == (4, "invalid")
    assert first(session_of("format_collapse"), series(INVALID, [0.51, 1.0, 1.0, 1.0])) == (None, None)


@pytest.mark.parametrize(("metric", "best", "limit"), [(INVALID, 0.0, 0.5), (THINKING, 1.0, 0.5)])
def test_form_that_has_fallen_to_its_limit_is_not_lost(metric, best, limit):
    assert first(session_of("format_collapse"), series(metric, [best, *[limit] * 9])) == (None, None)


def test_form_is_lost_below_two_thirds_of_its_best():
    def spoke(share):
        return first(session_of("format_collapse", min_thinking=0.9), series(THINKING, [1.0, *[share] * 3]))[0]

    assert (spoke(2 / 3 - 1e-9), spoke(2 / 3)) == (4, None)


@pytest.mark.parametrize(
    ("metric", "values", "reason"),
    [
        (INVALID, [0, 1, 1, 1], "more than 50% of the turns had no valid answer 3 times in a row"),
        (THINKING, [1, 0, 0, 0], "less than 50% of the turns had a thought 3 times in a row"),
        (LENGTH, [10, 10, 1, 1, 1], "responses were shorter than 0.2 of their early length 3 times in a row"),
        (LENGTH, [10, 10, 99, 99, 99], "responses were longer than 5 times their early length 3 times in a row"),
    ],
)
def test_the_reason_says_what_became_of_the_form(metric, values, reason):
    assert first(session_of("format_collapse"), series(metric, values))[1].reason == reason


def test_the_evidence_of_form_holds_all_that_was_measured():
    verdict = first(session_of("format_collapse"), [{LENGTH: v, INVALID: 0.25} for v in [90, 110, 9, 9, 9]])[1]
    assert verdict.evidence == {"condition": "short", INVALID: 0.25, LENGTH: 9, "early_length": 100}


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
        (series(SPREAD, [1e-6] * 45), 20, "spread"),  # at the limit of rounding
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
        series(SPREAD, [1.1e-6, *[0.0] * 45]),  # more than rounding
        measured([0.0, 0.0, 0.021, 0.0, 0.0, 0.0, 0.0]),
        [{TOLD: 0.0}] * 9,  # without an error nothing can be said
        [{}] * 45,
    ],
)
def test_a_run_that_had_it_once_has_something_to_lose(records):
    assert first(session_of("no_signal"), records) == (None, None)


@pytest.mark.parametrize(("group_size", "step"), [(1, None), (2, 20)])
def test_single_episodes_have_no_spread_to_look_for(group_size, step):
    experiment = SimpleNamespace(rollout=SimpleNamespace(group_size=group_size))
    session = registry().create("collapse", "no_signal").start(DetectorContext(experiment, tokenizer=None))
    assert first(session, series(SPREAD, [0.0] * 45))[0] == step


def test_everything_that_is_missing_is_named_with_how_often_it_was_looked_for():
    records = [{INVALID: 1.0, SPREAD: 0.0, **record} for record in [*measured([0.0] * 3), *[{}] * 21]]
    records[21] |= measured([0.0])[0]
    verdict = first(session_of("no_signal", window=22), records)[1]
    assert verdict.step == 22
    assert verdict.evidence == {"conditions": ["form", "spread", "information"]}
    assert verdict.reason == (
        "no answer has been valid since the first step (22 steps); "
        "no group's rewards have differed since the first step (22 steps): its episodes teach nothing; "
        "the reasonings have never told one prompt from another, in 4 measurements"
    )


@pytest.mark.parametrize(("metric", "limit"), [(KL, 2.0), (UPDATE, 0.02)])
def test_kl_runaway(metric, limit):
    values = [2 * limit, limit, -2 * limit, 2 * limit]  # estimates may be negative
    step, verdict = first(session_of("kl_runaway", window=2), series(metric, values))
    assert (step, verdict.evidence) == (4, {"metric": metric, "threshold": limit, "last": 2 * limit})
    assert verdict.reason == f"{metric} stayed above {limit:g} nats per token for 2 steps"


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
    ("name", "defaults"),
    [
        ("entropy_collapse", {"ratio": 0.1, "window": 3, "baseline_steps": 2, "stop": True}),
        ("entropy_explosion", {"ratio": 3.0, "window": 3, "baseline_steps": 2, "stop": True}),
        (
            "format_collapse",
            {"max_invalid": 0.5, "min_thinking": 0.5, "min_length": 0.2, "max_length": 5.0}
            | {"window": 3, "baseline_steps": 2, "stop": True},
        ),
        ("kl_runaway", {"max_kl": 2.0, "max_update": 0.02, "window": 5, "stop": True}),
        ("no_signal", {"window": 20, "measurements": 4, "stop": False}),
    ],
)
def test_what_is_watched_for_where_nothing_is_said(name, defaults):
    assert attrs.asdict(registry().create("collapse", name)) == defaults


@pytest.mark.parametrize(
    ("name", "records", "spoke"),
    [
        ("entropy_collapse", series(ENTROPY, [2, 0.1]), 2),
        ("entropy_explosion", series(ENTROPY, [1, 9]), 2),
        ("format_collapse", series(LENGTH, [9, 1]), 2),
        ("kl_runaway", series(KL, [9]), 1),
        ("no_signal", series(INVALID, [1.0]), 1),
        ("no_signal", measured([0.0]), 1),
    ],
)
def test_a_window_of_one_step_speaks_at_once(name, records, spoke):
    counts = {"window", "baseline_steps", "measurements"} & {
        field.name for field in attrs.fields(registry().resolve("collapse", name))
    }
    assert first(session_of(name, **dict.fromkeys(counts, 1)), records)[0] == spoke
    for count in counts:
        with pytest.raises(RequestError, match=f"'{count}' must be >= 1: 0"):
            registry().create("collapse", name, **{count: 0})


@pytest.mark.parametrize(
    ("name", "parameter", "allowed", "refused"),
    [
        ("entropy_collapse", "ratio", (1e-9, 0.999), (0, 1)),
        ("entropy_explosion", "ratio", (1.001, 100), (1, 0.5)),
        ("format_collapse", "max_invalid", (0, 1), (-0.001, 1.001)),
        ("format_collapse", "min_thinking", (0, 1), (-0.001, 1.001)),
        ("format_collapse", "min_length", (0, 1), (-0.001, 1.001)),
        ("format_collapse", "max_length", (1.001, 100), (1, 0)),
        ("kl_runaway", "max_kl", (1e-9, 100), (0, -1)),
        ("kl_runaway", "max_update", (1e-9, 100), (0, -1)),
    ],
)
def test_thresholds_that_make_no_sense_are_refused_and_all_others_are_not(name, parameter, allowed, refused):
    for value in allowed:
        assert getattr(registry().create("collapse", name, **{parameter: value}), parameter) == value
    for value in refused:
        with pytest.raises(RequestError, match=f"'{parameter}' must be"):
            registry().create("collapse", name, **{parameter: value})


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
