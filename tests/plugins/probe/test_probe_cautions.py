"""What is said of results that mean less than they seem to."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
from uncollapse.plugins.probe import OfflineEntropyProbe
from uncollapse.plugins.probe.cautions import cautions
from uncollapse.plugins.probe.read_config import ConfigError, read_config

sys.path.insert(0, str(Path(__file__).parent))
from probe_tiny_lora import SETTINGS, make_checkpoint

FOUND = {
    "update": {"gradient_norm": 1.0},
    "direction": "adamw",
    "small_sample": None,
    "integrity": None,
    "truth": [],
    "prediction": None,
    "deltaH1": None,
    "deltaH_true": None,
    "entropy_unit": "per_sequence",
    "variance": {},
    "se_over_deltaH1": None,
}


def said(**changes):
    return list(cautions(FOUND | changes))


@pytest.mark.parametrize(("deltaH1", "warns"), [(-0.27, True), (-0.073, False), (0.27, False)])
def test_more_entropy_than_there_is_cannot_go(deltaH1, warns):
    lines = said(deltaH1=deltaH1, prediction={"deltaH1": deltaH1, "H_orig": 0.074})
    assert lines == (
        ["the prediction takes away more than the entropy that is there, 0.074: the step is too long for a first-order "
         "prediction, or E too small"] if warns else []
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "se", "warns"), [(0.6, 0.1, True), (-0.6, 0.1, True), (0.4, 0.1, False), (0.6, 0.4, False)]
)
def test_curvature_as_large_as_the_prediction_is_named(value, se, warns):
    prediction = {"deltaH1": -1.0, "H_orig": 9.0}
    found = {"paired_difference": {"value": value, "se": se}}
    lines = said(deltaH1=-1.0, prediction=prediction, variance=found)
    assert [f"{value:+.2g} ± {se:.1g} from the prediction, by curvature" in line for line in lines] == [True] * warns
    assert said(prediction=prediction, deltaH1=-1.0, variance={"paired_difference": {"value": None, "se": None}}) == []


def test_weights_that_are_clipped_have_no_size_of_their_own():
    point = {"eta": 1.0, "ess_fraction": 1.0, "ESS_too_low": False, "clipped_fraction": 0.25}
    assert said(truth=[point]) == ["25% of the weights are clipped: the truth is biased; raise importance.clip_c"]
    assert said(truth=[point | {"clipped_fraction": 0.05}]) == said(truth=[point | {"clipped_fraction": None}]) == []
    with pytest.raises(ConfigError, match="clip_c"):
        read_config({}, {"importance.clip_c": 0.5})


@pytest.mark.parametrize(("responses", "alone"), [(1, True), (2, False)])
def test_one_prompt_is_said_to_have_no_error_rather_than_a_wide_one(tmp_path, responses, alone):
    settings = copy.deepcopy(SETTINGS) | {"probe_rework": {"compute_conditional_variance": False}}
    settings["batch_config"] |= {"B_E": 1, "G_E": responses}
    found = OfflineEntropyProbe(settings).run_mixed_probe(make_checkpoint(tmp_path))
    assert found["deltaH1_se"] is None and found["se_over_deltaH1"] is None
    (line,) = [line for line in found["warnings"] if "1 prompt" in line]
    assert "nothing has a standard error" in line and "times as large" not in line
    assert ("no other sequence" in line) is alone
