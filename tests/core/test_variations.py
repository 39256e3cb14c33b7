from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.core import plugins
from uncollapse.core.compose.config import compose
from uncollapse.core.compose.identity import config_hash
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.compose.variations import Variations
from uncollapse.core.registry import Registry

REGISTRY = Registry([plugins.load_file(Path(__file__).with_name("fake_components.py"))])
BASE = {"environment": "sokoban", "model": {"path": "org/model"}}

# Right and wrong values of scalars, sections, components, lists of components; combinations that cannot work.
VALUES = {
    "kl.coef": [0, 0.01, 1, True, -1, "x"],
    "kl.placement": ["loss", "reward", "los"],
    "kl.weight": ["none", "detached"],
    "filter.select": ["nofilter", "top_p(0.9)", {"name": "top_p", "value": 0.5}, "top_p(3)", "top_q"],
    "filter.select.value": [0.2, 7],
    "entropy_coeff": [0, 0.5, "much"],
    "entropy.coef": [0, 0.5, "much"],
    "entropy": [{"coef": 0.5}, {"controller": "fixed"}, 3],
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
shared = Variations(BASE, REGISTRY)


@given(overrides)
@settings(max_examples=300)
def test_the_same_as_composing_each_on_its_own(changes):
    try:
        expected = compose(BASE, changes, REGISTRY)
    except CompositionError as error:
        with pytest.raises(CompositionError) as caught:
            shared.compose(changes)
        wrong = {problem.key for problem in error.problems}
        found = {problem.key for problem in caught.value.problems}
        assert found == wrong
    else:
        assert shared.compose(changes) == (expected, config_hash(expected))


def test_the_order_of_changes_of_one_key_counts():
    changes = {"filter.select": "top_p(0.9)", "filter.select.value": 0.2}
    experiment, _ = shared.compose(changes)
    assert experiment.filter.select.params["value"] == 0.2


def test_a_plugin_file_is_loaded_for_the_points_that_name_it():
    file = Path(__file__).with_name("fake_components.py")
    registry = Registry([plugins.load_file(file)])
    with pytest.raises(CompositionError, match="plugins"):
        Variations(BASE, registry).compose({"plugins": [str(file.with_name("absent.py"))]})
