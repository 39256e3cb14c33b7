import pytest
import torch
import uncollapse
from uncollapse.core.errors import RequestError, RunError
from uncollapse.filters.nofilter import NoFilter
from uncollapse.filters.top_k import TopF, TopK
from uncollapse.filters.top_p import TopP


def test_keeps_every_group():
    assert NoFilter().select(torch.tensor([0.0, -1.0, 2.0])).tolist() == [True, True, True]
    assert NoFilter(type="smallest").select(torch.zeros(0)).shape == (0,)


def test_zero_groups_can_be_left_out():
    assert NoFilter(include_zero=False).select(torch.tensor([0.0, -1.0, 2.0])).tolist() == [False, True, True]


def test_nan_is_refused():
    with pytest.raises(RunError, match="NaN"):
        NoFilter().select(torch.tensor([float("nan")]))


@pytest.mark.parametrize("cls", [NoFilter, lambda **zero: TopP(1.0, **zero), lambda **zero: TopF(1.0, **zero)])
def test_a_filter_that_keeps_all_says_so(cls):
    assert cls().keeps_all
    assert not cls(include_zero=False).keeps_all
    assert not TopP(0.9).keeps_all
    assert not TopF(0.9).keeps_all


def test_what_is_wrong_with_a_value_is_said_when_an_experiment_is_composed():
    base = {"environment": "bandit", "model": {"path": "a/model"}}
    for select, words in {
        "top_k(0.5)": "a fraction of the groups is top_f",
        "top_f(8)": "a number of groups is top_k",
    }.items():
        with pytest.raises(RequestError, match=f"(?s)filter.select.*{words}"):
            uncollapse.compose(base, [f"filter.select={select}"])
    assert uncollapse.compose(base, ["filter.select=top_k_abs(3)"]).filter.select.component == TopK(3)
