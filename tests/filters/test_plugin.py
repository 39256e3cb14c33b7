import pytest
import uncollapse


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("rollout_filter", {"top_p", "top_k", "top_f", "min_p", "nofilter"}),
        ("group_metric", {"reward_variance", "reward", "reward_sum", "entropy", "entropy_variance", "length"}),
    ],
)
def test_names(kind, names):
    registry = uncollapse.registry()
    assert names <= set(registry.names(kind))
    assert all(registry.describe(kind, name).doc and registry.describe(kind, name).summary for name in names)


@pytest.mark.parametrize(
    ("kind", "alias", "name"),
    [
        ("rollout_filter", "top_k_abs", "top_k"),
        ("group_metric", "reward_std", "reward_variance"),
        ("group_metric", "entropy_std", "entropy_variance"),
    ],
)
def test_aliases(kind, alias, name):
    assert uncollapse.registry().resolve(kind, alias) is uncollapse.registry().resolve(kind, name)


@pytest.mark.parametrize("name", ["top_p", "top_k", "top_f", "min_p", "nofilter"])
def test_every_filter_has_type_and_include_zero_and_value_comes_first(name):
    parameters = [parameter.name for parameter in uncollapse.registry().describe("rollout_filter", name).parameters]
    assert {"type", "include_zero"} <= set(parameters)
    assert name == "nofilter" or parameters[0] == "value"
