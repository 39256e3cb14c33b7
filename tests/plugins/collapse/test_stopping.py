import json
from functools import cache

import attrs
import pytest
import uncollapse
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.plugins.training.assemble import DetectorContext


def start(name, experiment=None, **parameters):
    return registry().create("collapse", name, **parameters).start(DetectorContext(experiment, tokenizer=None))


def verdicts(session, key, values, **others):
    """The step of the first verdict, counted from 1, and the verdict."""
    for step, value in enumerate(values, start=1):
        verdict = session.judge(step, {key: value, **others})
        if verdict:
            return step, verdict
    return None, None


STD = "rollout/in_group_reward_std"


def test_reward_variance_collapse_speaks_after_a_whole_window_below_a_tenth_of_the_baseline():
    step, verdict = verdicts(start("reward_variance_collapse"), STD, [2.0] * 10 + [0.19] * 20)
    assert step == 20
    assert verdict.detector == "reward_variance_collapse"
    assert verdict.evidence["baseline"] == pytest.approx(2.0)
    assert verdict.evidence["threshold"] == pytest.approx(0.2)
    assert verdict.evidence["last"] == [0.19] * 10


@pytest.mark.parametrize(
    "values",
    [
        [2.0] * 10 + [0.2] * 30,  # at the threshold is not below it
        [2.0] * 10 + ([0.1] * 9 + [0.5]) * 4,  # one step in the window recovers
        [0.0] * 40,  # nothing to lose
        [2.0] * 10 + [0.1] * 9,  # not a whole window yet
    ],
)
def test_reward_variance_collapse_is_silent(values):
    assert verdicts(start("reward_variance_collapse"), STD, values) == (None, None)


def test_reward_variance_ignores_empty_steps_and_steps_without_the_metric():
    session = start("reward_variance_collapse", baseline_steps=2, window=2)
    for step, (std, kept) in enumerate([(4.0, 8), (0.0, 0), (2.0, 8), (0.1, 0), (0.1, 8)]):
        assert session.judge(step, {STD: std, "rollout/filter_kept_count": kept}) is None
    assert session.judge(5, {}) is None
    verdict = session.judge(6, {STD: 0.2, "rollout/filter_kept_count": 8})
    assert verdict.evidence["baseline"] == pytest.approx(3.0)
    assert verdict.evidence["last"] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("values", "said", "best"),
    [
        ([0.0] * 5, "has never been higher", 0.0),
        ([0.0, 0.4, *[0.005] * 5], "has been 0.4", 0.4),
        ([0.01, *[0.005] * 5], "has been 0.01", 0.01),  # at the threshold it was not below
    ],
)
def test_low_success_that_was_never_higher_is_told_from_success_that_was_lost(values, said, best):
    session = start("low_validation_success")
    verdicts = [session.judge(step, {"validation/success": value}) for step, value in enumerate(values)]
    assert verdicts[:-1] == [None] * (len(values) - 1)
    whole = f"validation success was below 0.01 in 5 consecutive validations, and {said}"
    assert (verdicts[-1].reason, verdicts[-1].evidence["best"]) == (whole, best)


def test_low_validation_success_counts_consecutive_validations_only():
    session = start("low_validation_success")
    for step, success in enumerate([0.0, 0.0, 0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 0.0]):
        assert session.judge(step, {"validation/success": success}) is None
        assert session.judge(step, {"train/success": 0.0}) is None  # steps without validation count for nothing
    verdict = session.judge(9, {"validation/success": 0.009})
    assert verdict.step == 9
    assert verdict.evidence == {"threshold": 0.01, "last": [0.0, 0.0, 0.0, 0.0, 0.009], "best": 0.01}


@cache
def experiment(steps):
    composed = uncollapse.compose("tiny-sokoban")
    return attrs.evolve(composed, filter=attrs.evolve(composed.filter, empty_stop_steps=steps))


def test_empty_filter_takes_its_patience_from_the_filter():
    key = "rollout/filter_kept_count"
    assert verdicts(start("empty_filter", experiment(3)), key, [0, 0, 1, 0, 0, 0, 0])[0] == 6
    assert verdicts(start("empty_filter", experiment(0)), key, [0] * 50) == (None, None)


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("reward_variance_collapse", STD, [2.0] * 10 + [0.1] * 10),
        ("low_validation_success", "validation/success", [0.0] * 5),
        ("empty_filter", "rollout/filter_kept_count", [0] * 5),
    ],
)
def test_a_restored_detector_speaks_at_the_same_step(name, key, values):
    for cut in range(len(values)):
        first = start(name, experiment(5))
        assert verdicts(first, key, values[:cut]) == (None, None)
        second = start(name, experiment(5))
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))  # as it stands in state.json
        assert verdicts(second, key, values[cut:])[0] == len(values) - cut


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("reward_variance_collapse", {"baseline_steps": 10, "window": 10, "ratio": 0.1}),
        ("low_validation_success", {"threshold": 0.01, "patience": 5}),
    ],
)
def test_what_is_watched_for_where_nothing_is_said(name, defaults):
    assert attrs.asdict(registry().create("collapse", name)) == defaults


def test_a_window_of_one_step_stops_at_once():
    step, verdict = verdicts(start("reward_variance_collapse", baseline_steps=1, window=1), STD, [2.0, 0.1])
    assert (step, verdict.stop) == (2, True)
    assert verdict.reason == "the reward std within groups stayed below 0.1 of its baseline for 1 steps"
    step, verdict = verdicts(start("low_validation_success", patience=1), "validation/success", [0.0])
    assert (step, verdict.stop) == (1, True)
    zeros = {"rollout/filter_zero_count": 7}
    step, verdict = verdicts(start("empty_filter", experiment(1)), "rollout/filter_kept_count", [0], **zeros)
    assert (step, verdict.stop, verdict.evidence) == (1, True, {"steps": 1, "scores_at_zero": 7})
    assert verdict.reason == "the rollout filter kept no group for 1 consecutive steps"


@pytest.mark.parametrize(
    ("name", "parameter", "allowed", "refused"),
    [
        ("reward_variance_collapse", "ratio", (1e-9, 0.999), (0, 1)),
        ("reward_variance_collapse", "window", (1, 100), (0, -1)),
        ("reward_variance_collapse", "baseline_steps", (1, 100), (0, -1)),
        ("low_validation_success", "threshold", (1e-9, 1), (0, 1.001)),
        ("low_validation_success", "patience", (1, 100), (0, -1)),
    ],
)
def test_thresholds_that_mean_nothing_are_refused_and_all_others_are_not(name, parameter, allowed, refused):
    for value in allowed:
        assert getattr(registry().create("collapse", name, **{parameter: value}), parameter) == value
    for value in refused:
        with pytest.raises(RequestError, match=f"'{parameter}' must be"):
            registry().create("collapse", name, **{parameter: value})
