from __future__ import annotations

import pytest
from uncollapse.core.registry import registry
from uncollapse.core.runs.labels import titles
from uncollapse.plugins.sweeps.overridden_keys import decided, lost, touched


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ({"kl.coef": 1}, {"kl.coef"}),
        ({"kl": {"coef": 1, "placement": "loss"}}, {"kl.coef", "kl.placement"}),
        (
            {"filter.select": "top_p(0.9, type=smallest)"},
            {"filter.select", "filter.select.value", "filter.select.type"},
        ),
        ({"filter": {"select": {"name": "top_p", "value": 0.9}}}, {"filter.select", "filter.select.value"}),
        ({"filter.select.value": 0.9}, {"filter.select.value"}),
        ({"filter.select": {"value": 0.9}}, {"filter.select.value"}),
        ({"filter.select": "no such filter"}, {"filter.select"}),
        ({"model.lora": None}, {"model.lora"}),
        ({"model": {"lora": {"rank": 3}}}, {"model.lora.rank"}),
        ({"validation.environment": {"split": "test"}}, {"validation.environment.split"}),
        ({"collapse": ["empty_filter"]}, {"collapse"}),
        ({"collapse.empty_filter.steps": 3}, {"collapse.empty_filter.steps"}),
        ({"nonsense": {"a": 1}}, {"nonsense"}),
    ],
)
def test_keys_that_an_override_decides(overrides, keys):
    assert decided(registry(), overrides) == keys


@pytest.mark.parametrize(
    ("earlier", "later", "gone"),
    [
        ({"kl.coef": 1}, {"kl": {"coef": 2}}, ["kl.coef"]),
        ({"kl.coef": 1}, {"kl.placement": "loss"}, []),
        ({"filter.select.value": 0.5}, {"filter.select": "nofilter"}, ["filter.select.value"]),
        ({"filter.select": "top_p(0.9)"}, {"filter.select.value": 0.5}, ["filter.select.value"]),
        ({"filter.select": "top_p(0.9)"}, {"filter.select.eps": 0.5}, []),
        ({"model.lora.rank": 3}, {"model.lora": None}, ["model.lora.rank"]),
    ],
)
def test_what_a_later_override_takes_back(earlier, later, gone):
    assert lost(decided(registry(), earlier), decided(registry(), later)) == gone


def test_a_key_is_touched_from_above_and_from_below():
    assert touched(["filter"], "filter.select") and touched(["filter.select.value"], "filter.select")
    assert not touched(["filter.selects", "filter.metric"], "filter.select")


def test_titles_name_what_varies():
    places = [{"kl": "0.01", "seed": seed, "filter": "off"} for seed in "01"]
    assert titles(["001", "001__seed_1"], places) == ["seed 0", "seed 1"]
    places[1]["kl"] = "0.1"
    assert titles(["a", "b"], places) == ["kl 0.01, seed 0", "kl 0.1, seed 1"]
    assert titles(["001"], places[:1]) == ["kl 0.01, seed 0, filter off"]
    assert titles(["a", "b"], [{"case": "plain"}, {"case": "dapo"}]) == ["plain", "dapo"]
    together = [{"kl.coef,entropy_coeff": f"kl.coef={k}, entropy_coeff=0"} for k in "01"]
    assert titles(["a", "b"], together) == ["kl.coef=0, entropy_coeff=0", "kl.coef=1, entropy_coeff=0"]
    assert titles(["a", "b"], [{}, {}]) == ["a", "b"]
