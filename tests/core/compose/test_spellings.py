"""Short spellings of keys mean their keys, wherever an experiment is written down."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core import plugins
from uncollapse.core.compose.config import compose, dump_yaml, problems, to_dict
from uncollapse.core.compose.identity import config_hash
from uncollapse.core.compose.spellings import SHORT, full, given_twice, is_key, written_out
from uncollapse.core.registry import Registry

REGISTRY = Registry([plugins.load_file(Path(__file__).parents[1] / "fake_components.py")])
BASE = {"environment": "sokoban", "model": {"path": "org/model"}}


def make(data=BASE, overrides=()):
    return compose(data, overrides, REGISTRY)


@pytest.mark.parametrize(
    ("data", "overrides"),
    [
        ({"entropy_coeff": 0.25}, ()),
        ({"entropy": {"coef": 0.25}}, ()),
        ({"entropy_coeff": 0.25, "entropy": {"controller": "fixed"}}, ()),
        ({"entropy_coeff": 0.25, "entropy": {"coef": 0.25}}, ()),
        ({"entropy": {"coef": 1}}, ["entropy_coeff=0.25"]),
        ({"entropy_coeff": 1}, ["entropy.coef=0.25"]),
        ({"entropy_coeff": 1}, ["entropy={coef: 0.25}"]),
        ({}, {"entropy_coeff": 0.25}),
        ({}, ["entropy_coeff=3", "entropy_coeff=0.25"]),
        ({}, ["entropy_coeff=0.25", "entropy.controller=fixed"]),
        ({}, ["entropy_coeff=0.25", "entropy.coef=0.25"]),
    ],
)
def test_both_spellings_are_one_experiment(data, overrides):
    experiment = make(BASE | data, overrides)
    assert experiment.entropy.coef == 0.25
    expected = make(BASE, ["entropy.coef=0.25"])
    assert experiment == expected
    assert config_hash(experiment) == config_hash(expected)
    assert to_dict(experiment)["entropy"] == {"coef": 0.25, "controller": "fixed"}
    assert "entropy_coeff" not in dump_yaml(experiment)
    assert make(to_dict(experiment)) == experiment


def test_a_file_and_what_it_extends_may_spell_it_differently(tmp_path):
    lower, upper = tmp_path / "lower.yaml", tmp_path / "upper.yaml"
    lower.write_text("environment: sokoban\nmodel: {path: org/model}\nentropy: {coef: 0.5}\n")
    upper.write_text("extends: lower.yaml\nentropy_coeff: -0.125\n")
    assert make(lower).entropy.coef == 0.5
    assert make(upper).entropy.coef == -0.125
    assert make(upper, ["entropy.coef=2"]).entropy.coef == 2.0


@pytest.mark.parametrize(
    ("data", "overrides"),
    [
        ({"entropy_coeff": 0.1, "entropy": {"coef": 0.2}}, ()),
        ({}, ["entropy_coeff=0.1", "entropy.coef=0.2"]),
        ({}, ["entropy.coef=0.2", "entropy_coeff=0.1"]),
        ({}, ["entropy={coef: 0.2}", "entropy_coeff=0.1"]),
        ({}, {"entropy_coeff": 0.1, "entropy": {"coef": 0.2}}),
    ],
)
def test_two_values_in_one_place_are_refused(data, overrides):
    (found,) = problems(BASE | data, overrides, REGISTRY)
    assert (found.key, found.value) == ("entropy_coeff", 0.1)
    assert "short spelling of entropy.coef, which is given another value, 0.2" in found.reason


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["entropy_coeff=much"], "entropy_coeff"),
        (["entropy.coef=much"], "entropy.coef"),
        (["entropy.coef=1", "entropy_coeff=much", "entropy_coeff=.inf"], "entropy_coeff"),
        (["entropy_coeff={x: 1}"], "entropy_coeff"),
        (["entropy_coeff.x=1"], "entropy_coeff"),
        (["entropy_coeff=null"], "entropy_coeff"),
    ],
)
def test_a_wrong_value_is_told_by_the_key_that_was_written(overrides, key):
    assert {problem.key for problem in problems(BASE, overrides, REGISTRY)} == {key}


def test_a_slip_of_the_short_spelling_finds_it():
    (found,) = problems(BASE, ["entropy_coef=1"], REGISTRY)
    assert found.fix == "did you mean 'entropy_coeff'?"


@given(st.sampled_from(["entropy_coeff", "entropy.coef", "entropy"]), st.floats(-8, 8, width=16))
def test_an_axis_composes_what_the_override_does(key, value):
    composed = make(BASE, {key: {"coef": value} if key == "entropy" else value})
    expected = make(BASE, {"entropy.coef": value})
    assert (composed, config_hash(composed)) == (expected, config_hash(expected))


def test_keys_are_written_out_and_others_left():
    assert [full(key) for key in ("entropy_coeff", "entropy_coeff.x", "entropy.coef", "entropy_coefficient")] == [
        *("entropy.coef", "entropy.coef.x", "entropy.coef", "entropy_coefficient")
    ]
    assert [is_key(key) for key in ("entropy_coeff", "entropy.coef", "entropy_coef", "kl.coef")] == [
        *(True, True, False, True)
    ]
    layer = {"entropy_coeff": 1, "seed": 2, "kl": {"coef": 3}}
    assert written_out(layer) == {"entropy": {"coef": 1}, "seed": 2, "kl": {"coef": 3}}
    assert layer["entropy_coeff"] == 1
    assert list(given_twice([{"entropy_coeff": 1}, {"entropy": {"coef": 2}}, {"entropy_coeff": 2}])) == []
    assert SHORT == {"entropy_coeff": "entropy.coef"}
