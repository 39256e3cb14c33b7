from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core import plugins
from uncollapse.core.compose.config import compose, to_dict
from uncollapse.core.compose.identity import config_hash
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.compose.spec import SpecError
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import Registry
from uncollapse.plugins.sweeps.points import LABEL_LENGTH, Case, axis_values, expand, parse_axis

REGISTRY = Registry([plugins.load_file(Path(__file__).parents[2] / "core" / "fake_components.py")])
BASE = {"environment": "sokoban", "model": {"path": "org/model"}}


def points(axes, exclude=()):
    return expand(BASE, axes, exclude, REGISTRY)


def labels(axes, exclude=()):
    return [point.label for point in points(axes, exclude)]


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("kl.coef=0,0.001, 1e-2", ("kl.coef", [0, 0.001, 0.01])),
        (
            "filter.select=nofilter, top_p(0.9, type=smallest)",
            ("filter.select", ["nofilter", "top_p(0.9, type=smallest)"]),
        ),
        ("seed=0..2", ("seed", [0, 1, 2])),
        ("seed=-1..1,7", ("seed", [-1, 0, 1, 7])),
        ("rollout.think=true,no", ("rollout.think", [True, "no"])),
        ("a,b=[1, x],[2, y]", ("a,b", [[1, "x"], [2, "y"]])),
    ],
)
def test_axes_on_a_command_line(text, axis):
    assert parse_axis(text) == axis


@pytest.mark.parametrize("text", ["seed", "=1", "seed=", "seed=1,,2", "seed=2..1"])
def test_axes_that_cannot_be_read(text):
    with pytest.raises(SpecError):
        parse_axis(text)


def test_values_of_a_list_stay_as_they_are():
    assert axis_values("x", ["0..2", "top_p(0.9)", 0.5, None]) == [0, 1, 2, "top_p(0.9)", 0.5, None]
    assert axis_values("x", 3) == [3]


def test_points_are_all_combinations():
    found = points({"filter.select": ["nofilter", "top_p(0.9)"], "kl.coef": [0, 0.01]})
    assert [point.label for point in found] == (
        ["nofilter__kl.coef_0", "nofilter__kl.coef_0.01", "top_p_0.9__kl.coef_0", "top_p_0.9__kl.coef_0.01"]
    )
    assert found[3].overrides == {"filter.select": "top_p(0.9)", "kl.coef": 0.01}
    assert found[3].experiment == compose(BASE, {"filter.select": "top_p(0.9)", "kl.coef": 0.01}, REGISTRY)
    assert found[3].hash == config_hash(found[3].experiment)
    assert len({point.hash for point in found}) == 4


def test_no_axes_are_one_point():
    (point,) = points({})
    assert (point.label, point.overrides) == ("base", {})


def test_keys_that_move_together():
    expected = [{"kl.coef": 0, "entropy_coeff": 0.1, "seed": 5}, {"kl.coef": 0.1, "entropy_coeff": 0, "seed": 5}]
    together = {"kl.coef,entropy_coeff": [[0, 0.1], [0.1, 0]], "seed": [5]}
    assert [point.overrides for point in points(together)] == expected
    mappings = {"setting": [{"kl.coef": 0, "entropy_coeff": 0.1}, {"kl.coef": 0.1, "entropy_coeff": 0}], "seed": "5"}
    assert [point.overrides for point in points(mappings)] == expected
    assert labels(mappings)[0] == "kl.coef_0__entropy_coeff_0.1__seed_5"


def test_the_seed_of_the_experiment_keeps_the_plain_name():
    axes = {"kl.coef": [0, 0.1], "seed": [0, 1]}
    assert labels(axes) == ["kl.coef_0", "kl.coef_0__seed_1", "kl.coef_0.1", "kl.coef_0.1__seed_1"]
    assert {point.label: point.hash for point in points({"kl.coef": [0, 0.1]})}.items() <= (
        {point.label: point.hash for point in points(axes)}.items()
    )
    assert labels({"seed": [0, 1]}) == ["seed_0", "seed_1"]


def test_exclusions():
    axes = {"filter.select": ["nofilter", "top_p(0.9)"], "kl.coef": [0, 0.01]}
    assert labels(axes, [{"filter.select": {"name": "nofilter"}, "kl.coef": 0.0}]) == (
        ["nofilter__kl.coef_0.01", "top_p_0.9__kl.coef_0", "top_p_0.9__kl.coef_0.01"]
    )
    assert labels(axes, [{"kl.coef": 0.01}, {"filter.select": "nofilter"}]) == ["top_p_0.9__kl.coef_0"]
    critic = {"critic.shared": [False, True]}
    assert labels(critic, [{"critic.shared": True}]) == ["critic.shared_false"]
    for axes_of_one, other in ((critic, {"critic.shared": 1}), ({"trainer.keep": [0, 1]}, {"trainer.keep": True})):
        with pytest.raises(RequestError, match="matches no point"):  # a number is no yes
            points(axes_of_one, [other])
    with pytest.raises(RequestError, match=r"'kl\.ceof', which no axis changes"):
        points(axes, [{"kl.ceof": 0}])
    with pytest.raises(RequestError, match="no points"):
        points({"seed": [0]}, [{"seed": 0}])


def test_labels_are_safe_and_readable():
    axes = {
        "filter.select": ["top_p(0.9, type=smallest)", {"name": "top_k", "value": 3}],
        "model.path": ["org/model-2"],
    }
    assert labels(axes) == (
        ["top_p_0.9_type_smallest__model.path_org_model-2", "top_k_value_3__model.path_org_model-2"]
    )
    assert labels({"kl.estimator": ["kl", "kl+"], "model.lora": [None]}) == [
        "kl__model.lora_null",
        "kl+__model.lora_null",
    ]


# "0..2" would be a range of numbers
PATHS = st.text(st.characters(exclude_characters="\0~", exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda text: ".." not in text
)


@given(st.lists(PATHS, min_size=1, max_size=4, unique=True))
def test_labels_are_unique_names_of_directories(paths):
    found = labels({"model.path": paths, "seed": [0, 1]})
    assert len(set(found)) == 2 * len(paths)
    for label in found:
        assert Path(label).name == label
        assert 0 < len(label) <= LABEL_LENGTH
        assert label.isascii()


def test_the_same_point_twice_is_refused():
    with pytest.raises(RequestError, match=r"kl\.coef_0 and kl\.coef_0\.0"):
        points({"kl.coef": [0, 0.0]})


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({"kl.coef,seed": [1]}, "takes lists of 2 values, not 1"),
        ({"kl.coef,seed": [[1, 2, 3]]}, "takes lists of 2 values"),
        ({"kI.coef": [1]}, "'kI.coef', which is no key of an experiment\n.*did you mean 'kl.coef'"),
        ({"kl.coef": [0], "setting": [{"kl.coef": 1}]}, "two axes change kl.coef"),
    ],
)
def test_axes_that_make_no_sense(axes, reason):
    with pytest.raises(RequestError, match=reason):
        points(axes)


def test_problems_of_all_points_are_reported_once():
    with pytest.raises(CompositionError) as caught:
        points({"kl.coef": [-1, 0], "filter.select": ["top_q", "top_p(3)"], "trainer.lrr": [0]})
    assert [problem.key for problem in caught.value.problems] == (
        ["filter.select", "kl.coef", "trainer.lrr", "filter.select.value"]
    )


def test_hash_is_of_what_counts():
    base = compose(BASE, registry=REGISTRY)
    assert len(config_hash(base)) == 16
    assert config_hash(base) == config_hash(to_dict(base))
    same = compose({**BASE, "trackers": ["wandb"], "filter": {"metric": "reward_std"}}, registry=REGISTRY)
    assert config_hash(same) == config_hash(base)
    assert config_hash(compose(BASE, ["seed=1"], REGISTRY)) != config_hash(base)
    assert config_hash(compose(BASE, ["model.path=x"], REGISTRY)) != config_hash(base)


def test_cases_are_crossed_with_the_axes_and_named_after_themselves():
    cases = [Case("plain", {}), Case("1.5 x", {"kl.coef": 0.1}, {"kl": "0.1"})]
    found = expand(BASE, {"seed": [0, 1]}, registry=REGISTRY, cases=cases)
    assert [point.label for point in found] == ["plain", "plain__seed_1", "1.5_x", "1.5_x__seed_1"]
    assert found[1].values == {"case": "plain", "seed": "1"}
    assert found[2].values == {"kl": "0.1", "seed": "0"}
    assert found[3].overrides == {"kl.coef": 0.1, "seed": 1}


def test_cases_that_cannot_be_told_apart():
    with pytest.raises(RequestError, match="two points of the sweep are called '10'"):
        expand(BASE, {}, registry=REGISTRY, cases=[Case("10", {}), Case("10", {"seed": 1})])
    with pytest.raises(RequestError, match="a case and an axis change seed"):
        expand(BASE, {"seed": [0, 1]}, registry=REGISTRY, cases=[Case("a", {"seed": 3})])
