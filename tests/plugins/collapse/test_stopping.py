import json

import attrs
import pytest
import uncollapse
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
    [([0.0] * 5, "has never been higher", 0.0), ([0.0, 0.4, *[0.005] * 5], "has been 0.4", 0.4)],
)
def test_low_success_that_was_never_higher_is_told_from_success_that_was_lost(values, said, best):
    session = start("low_validation_success")
    verdicts = [session.judge(step, {"validation/success": value}) for step, value in enumerate(values)]
    assert verdicts[:-1] == [None] * (len(values) - 1)
    assert said in verdicts[-1].reason
    assert verdicts[-1].evidence["best"] == best


def test_low_validation_success_counts_consecutive_validations_only():
    session = start("low_validation_success")
    for step, success in enumerate([0.0, 0.0, 0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 0.0]):
        assert session.judge(step, {"validation/success": success}) is None
        assert session.judge(step, {"train/success": 0.0}) is None  # steps without validation count for nothing
    verdict = session.judge(9, {"validation/success": 0.009})
    assert verdict.step == 9
    assert verdict.evidence == {"threshold": 0.01, "last": [0.0, 0.0, 0.0, 0.0, 0.009], "best": 0.01}


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
    ("name", "parameters"),
    [
        ("reward_variance_collapse", {"ratio": 1.5}),
        ("reward_variance_collapse", {"window": 0}),
        ("low_validation_success", {"threshold": 0.0}),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(name, parameters):
    with pytest.raises(uncollapse.core.errors.RequestError):
        start(name, **parameters)
