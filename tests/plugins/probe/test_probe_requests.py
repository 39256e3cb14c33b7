"""Requests that cannot be met are refused where they are read; a step that is far too long says so."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path

import pytest
from uncollapse.core.errors import RequestError
from uncollapse.core.files import to_json
from uncollapse.plugins.probe import OfflineEntropyProbe
from uncollapse.plugins.probe.checkpoint.files import find_checkpoint
from uncollapse.plugins.probe.read_config import ConfigError, read_config

sys.path.insert(0, str(Path(__file__).parent))
from probe_tiny_lora import SETTINGS, make_checkpoint

REFUSED = {
    "learning_rate": [0, -1e-6, float("inf"), float("nan"), "2e-6"],
    "generation.temperature": [0, float("inf")],
    "importance.etas": [[0], [1e-3, 0.0], [float("inf")]],
    "true_delta_h.etas": [[0]],
    "batch_config.B": [4],
    "plugins": ["mine.py", [3]],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values])
def test_an_override_that_makes_no_sense_is_refused_by_its_key(key, value):
    with pytest.raises(ConfigError) as refusal:
        read_config({}, {key: value})
    assert key.replace("true_delta_h", "importance") in str(refusal.value)


def test_overrides_may_have_the_older_keys_of_a_file():
    found = read_config({"true_delta_h": {"enabled": True}}, {"true_delta_h.symmetric": True, "checkpoint.dtype": "x"})
    assert found.config.importance.enabled and found.config.importance.symmetric
    assert [line.partition(":")[0] for line in found.ignored] == ["checkpoint.dtype"]
    with pytest.raises(ConfigError, match="write B_E"):
        read_config({}, {"batch_config.B": 4})


def test_a_change_of_one_alternative_takes_back_the_other():
    file = {"batch_config": {"B_E_values": [4, 8], "dataset_name": "arithmetic"}}
    assert read_config(file, {"batch_config.B_E": 6}).config.sizes == (6,)
    batches = read_config(file, {"batch_config.environment": "bandit"}).config.batch_config
    assert batches.dataset_name is None and batches.environment.name == "bandit"
    with pytest.raises(ConfigError, match="both are given"):
        read_config({}, {"batch_config.B_E": 6, "batch_config.B_E_values": [4, 8]})


def test_no_optimizer_state_of_another_model_is_taken_or_recommended(tmp_path):
    checkpoint = make_checkpoint(tmp_path / "saved")
    (checkpoint / "optimizer.pt").rename(checkpoint.parent / "optimizer.pt")
    shutil.copytree(checkpoint / "model", checkpoint / "critic")
    shutil.copy(checkpoint.parent / "optimizer.pt", checkpoint / "critic")
    with pytest.raises(RequestError) as refusal:
        find_checkpoint(checkpoint)
    assert refusal.value.fix == "give the path of its optimizer.pt"
    assert find_checkpoint(checkpoint, checkpoint.parent).optimizer_path == checkpoint.parent / "optimizer.pt"


def test_a_step_beyond_all_numbers_measures_nothing_and_says_so(tmp_path):
    settings = copy.deepcopy(SETTINGS) | {"learning_rate": 1e30}
    settings["importance"] = {**settings.get("importance", {}), "enabled": True}
    found = OfflineEntropyProbe(settings).run_mixed_probe(make_checkpoint(tmp_path))
    read = json.loads(to_json(found))
    assert read["deltaH_true"] is None and read["diagnostics"]["ESS_fraction"] is None
    assert read["diagnostics"]["ESS_too_low"] is True
    assert any("not finite" in line for line in found["warnings"])
    assert read["deltaH1"] == pytest.approx(found["prediction"]["dh_dv"] * 1e30)


@pytest.mark.parametrize(("direction", "rest"), [("adamw", "momentum and decay"), ("preconditioned_gradient", "is 0")])
def test_a_batch_without_advantages_is_said_to_make_the_step_that_it_makes(tmp_path, direction, rest):
    settings = copy.deepcopy(SETTINGS) | {"direction": direction, "policy_gradient": {"entropy_coeff": 0.0}}
    settings["generation"] = {**settings.get("generation", {}), "max_new_tokens": 1}
    found = OfflineEntropyProbe(settings).run_mixed_probe(make_checkpoint(tmp_path))
    assert found["update"]["gradient_norm"] == 0
    assert (found["update"]["v_norm"] == 0) is (direction != "adamw")
    (line,) = [line for line in found["warnings"] if "gradient of U" in line]
    assert rest in line.rpartition("?)")[2]


def test_everything_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError) as refusal:
        read_config({"batch_config": {"B": 4, "G": 0}, "nonsense": 1}, {"importance.etas": [0], "a..b": 1})
    assert {problem.key for problem in refusal.value.problems} == {
        "batch_config.B",
        "batch_config.G",
        "nonsense",
        "importance.etas",
        "a..b",
    }
    assert str(refusal.value).startswith("5 problems with the probe configuration:")


def test_an_override_changes_a_parameter_of_a_component_and_leaves_the_others():
    file = {"batch_config": {"environment": {"name": "sokoban", "size": 7, "boxes": 2}}}
    environment = read_config(file, {"batch_config.environment.boxes": 1}).config.batch_config.environment
    assert (environment.component.size, environment.component.boxes) == (7, 1)


def test_a_section_given_as_a_mapping_takes_back_the_alternatives_of_its_keys():
    template = {"batch_config": {"B_E_values": [256], "B_U": 2, "G": 2}}
    batches = read_config(template, {"batch_config": {"B_E": 4}}).config.batch_config
    assert (batches.B_E, batches.B_E_values, batches.B_U) == (4, None, 2)
    batches = read_config(
        {"batch_config": {"B_E": 4, "B_U": 2, "G": 2}}, {"batch_config.B_E_values": [8]}
    ).config.batch_config
    assert (batches.B_E, batches.B_E_values) == (None, (8,))
