from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.core import plugins
from uncollapse.core.compose.config import compose
from uncollapse.core.compose.identity import config_hash
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.registry import Registry
from uncollapse.plugins.sweeps.points import expand

FAKE = Path(__file__).parents[1] / "fake_components.py"
PLUGIN = plugins.load_file(FAKE)
USED = Registry([PLUGIN])
BASE = {"environment": "sokoban", "model": {"path": "org/model"}}

# Right and wrong values of scalars, sections, components, lists of components; combinations that cannot work.
VALUES = {
    "kl.coef": [0, 0.01, 1, True, -1, "x"],
    "kl.placement": ["loss", "reward", "los"],
    "kl.weight": ["none", "detached"],
    "filter.select": ["nofilter", "top_p(0.9)", {"name": "top_p", "value": 0.5}, "top_p(3)", "top_q"],
    "filter.select.value": [0.2, 7],
    "entropy_coeff": [0, 0.5, "much"],
    "seed": [0, 3, -1],
    "trainer.steps": [5, 0],
    "trainer.mini_batch": [32, 48],
    "trainer.lrr": [1],
    "rollout.group_size": [1, 16],
    "rollout": [{"groups": 4}, 5],
    "advantage": ["gae", "grpo"],
    "critic": [None],
    "validation.environment": [{"size": 5}, {"sise": 5}, None],
    "trackers": [["jsonl"], []],
    "typo": [1],
}
overrides = st.dictionaries(st.sampled_from(sorted(VALUES)), st.integers(0, 5), max_size=5).map(
    lambda chosen: {key: VALUES[key][index % len(VALUES[key])] for key, index in chosen.items()}
)


def outcome(source, changes, registry):
    """The hash of an experiment, or every problem with it in words."""
    try:
        return config_hash(compose(source, changes, registry))
    except CompositionError as error:
        return sorted(map(str, error.problems))


@given(overrides)
@settings(max_examples=60, deadline=None)
def test_a_registry_that_has_composed_much_composes_as_a_new_one_does(changes):
    assert outcome(BASE, changes, USED) == outcome(BASE, changes, Registry([PLUGIN]))


@given(overrides)
@settings(max_examples=100, deadline=None)
def test_a_composed_experiment_is_changed_as_its_source_is(changes):
    base = compose(BASE, registry=USED)
    assert outcome(base, changes, USED) == outcome(BASE, changes, USED)


def test_the_points_of_a_sweep_are_what_composing_each_on_its_own_gives():
    axes = {
        "kl.coef": [0, 0.1],
        "filter.select": ["nofilter", "top_p(0.9)"],
        "advantage": ["gae", "grpo"],
        "seed": [1, 2],
    }
    points = expand(BASE, axes, registry=USED)
    assert len(points) == len({point.hash for point in points}) == 16
    for point in points:
        alone = compose(BASE, point.overrides, Registry([PLUGIN]))
        assert (point.experiment, point.hash) == (alone, config_hash(alone))


def test_the_order_of_changes_of_one_key_counts():
    changes = {"filter.select": "top_p(0.9)", "filter.select.value": 0.2}
    assert compose(BASE, changes, USED).filter.select.params["value"] == 0.2


def test_a_plugin_file_gives_its_names_to_a_registry_that_has_composed(tmp_path):
    registry = Registry([plugins.load_file(FAKE)])
    file = tmp_path / "later.py"
    text = FAKE.read_text()
    first = text.index("@hookimpl")
    hook = '@hookimpl\ndef register_kl_variants(register):\n    register("late", Plain)\n'
    file.write_text(text[:first] + hook)
    assert "there is no kl 'late'" in str(outcome(BASE, {"kl.estimator": "late"}, registry))
    changes = {"plugins": [str(file)], "kl.estimator": "late"}
    assert compose(BASE, changes, registry).kl.estimator.name == "late"


def test_a_plugin_file_that_is_not_there_is_a_problem_of_every_point_that_names_it():
    with pytest.raises(CompositionError, match="plugins"):
        expand(BASE, {"plugins": [[str(FAKE.with_name("absent.py"))], []]}, registry=Registry([PLUGIN]))
