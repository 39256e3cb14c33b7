"""The detector of a sampler that is not the trainer."""

import json

import attrs
import pytest
from uncollapse.core.compose.experiment import Experiment
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.plugins.training.assemble import DetectorContext

K2, ESS = "mismatch/k2", "mismatch/ess"


def session_of(**parameters):
    return registry().create("collapse", "sampler_mismatch", **parameters).start(DetectorContext(None))


def verdicts(session, records):
    return {step: verdict for step, metrics in enumerate(records, 1) if (verdict := session.judge(step, metrics))}


@pytest.mark.parametrize(
    ("metric", "values", "limit", "side"),
    [(K2, [0.02, 0.01, 0.011, 5.0, 0.02], 0.01, "above"), (ESS, [0.05, 0.1, 0.099, 0.01, 0.05], 0.1, "below")],
)
def test_it_speaks_after_a_whole_window_beyond_its_threshold(metric, values, limit, side):
    found = verdicts(session_of(window=3), [{metric: value} for value in values])
    assert list(found) == [5]
    assert found[5].evidence == {"metric": metric, "threshold": limit, "last": values[-1]}
    assert f"{metric} stayed {side} {limit} for 3 steps" in found[5].reason
    assert not found[5].stop


def test_steps_that_were_not_measured_neither_count_nor_speak():
    high = {K2: 1.0, ESS: 1.0}
    assert list(verdicts(session_of(window=2), [high, {}, {}, high, {}, high])) == [4, 6]


def test_a_sampler_that_is_the_trainer_is_left_alone():
    assert verdicts(session_of(window=1), [{K2: 1e-12, ESS: 1.0}, {K2: 0.01, ESS: 0.1}] * 5) == {}


def test_state_survives_a_resume_and_it_can_be_told_to_stop():
    before = session_of(window=3)
    assert not verdicts(before, [{K2: 1.0}] * 2)
    after = session_of(window=3, stop=True)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert after.judge(3, {K2: 1.0}).stop


def test_what_is_watched_for_where_nothing_is_said():
    found = attrs.asdict(registry().create("collapse", "sampler_mismatch"))
    assert found == {"max_k2": 0.01, "min_ess": 0.1, "window": 5, "stop": False}


def test_a_window_of_one_step_speaks_at_once():
    assert list(verdicts(session_of(window=1), [{K2: 1.0}])) == [1]


@pytest.mark.parametrize(
    ("parameter", "allowed", "refused"),
    [("max_k2", (1e-9, 100), (0, -1)), ("min_ess", (0, 0.999), (-0.001, 1)), ("window", (1, 100), (0, -1))],
)
def test_thresholds_that_make_no_sense_are_refused_and_all_others_are_not(parameter, allowed, refused):
    for value in allowed:
        assert getattr(registry().create("collapse", "sampler_mismatch", **{parameter: value}), parameter) == value
    for value in refused:
        with pytest.raises(RequestError, match=f"'{parameter}' must be"):
            registry().create("collapse", "sampler_mismatch", **{parameter: value})


def test_nobody_gets_it_unasked():
    assert "sampler_mismatch" not in attrs.fields(Experiment).collapse.default
