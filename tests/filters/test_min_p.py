import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.errors import RunError
from uncollapse.filters.min_p import MinP

S = [0, 2.5, 5, 0.1, 0, 5.2, 1, 0.3]
scores = st.lists(st.integers(0, 1000).map(lambda n: n / 64), min_size=1, max_size=12)
values = st.floats(0, 1)


def kept(scores, value, **params) -> set[int]:
    return set(MinP(value, **params).select(torch.tensor(scores, dtype=torch.float32)).nonzero().flatten().tolist())


@pytest.mark.parametrize(
    ("scores", "value", "params", "expected"),
    [
        (S, 0.2, {}, {1, 2, 5}),
        (S, 0.1, {"include_zero": False}, {1, 2, 5, 6}),
        (S, 0.5, {"type": "smallest"}, {0, 4}),
        (S, 0.1, {"type": "smallest", "include_zero": False}, {3, 6, 7}),
        ([0, 0, 0, 0], 0.9, {}, {0, 1, 2, 3}),
        ([0, 0, 0, 0], 0.9, {"include_zero": False}, set()),
        ([3, 1, 3], 1.0, {}, {0, 2}),
        ([3, 1, 1], 1.0, {"type": "smallest"}, {1, 2}),
        ([3, 0, 1], 0.0, {}, {0, 1, 2}),
        ([3, 2, 1], 0.0, {"type": "smallest"}, {0, 1, 2}),
        ([-1, -2], 0.5, {}, set()),
        ([7, 0.7], 0.1, {}, {0, 1}),
    ],
)
def test_vectors(scores, value, params, expected):
    assert kept(scores, value, **params) == expected


def test_no_groups():
    assert MinP(0.5).select(torch.zeros(0)).shape == (0,)


def test_nan_is_refused():
    with pytest.raises(RunError, match="NaN"):
        MinP(0.5).select(torch.tensor([float("nan")]))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_value_is_a_share(value):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        MinP(value)


@given(scores=scores, value=values, power=st.integers(-20, 20), order=st.sampled_from(["largest", "smallest"]))
def test_the_unit_of_the_scores_does_not_matter(scores, value, power, order):
    assert kept([s * 2.0**power for s in scores], value, type=order) == kept(scores, value, type=order)


@given(scores=scores, pair=st.tuples(values, values).map(sorted), order=st.sampled_from(["largest", "smallest"]))
def test_a_larger_share_keeps_at_most_as_much(scores, pair, order):
    assert kept(scores, pair[1], type=order) <= kept(scores, pair[0], type=order)


@given(scores=scores, value=values, order=st.sampled_from(["largest", "smallest"]), data=st.data())
def test_permuting_groups_permutes_the_selection(scores, value, order, data):
    places = data.draw(st.permutations(range(len(scores))))
    permuted = kept([scores[i] for i in places], value, type=order)
    assert {places[i] for i in permuted} == kept(scores, value, type=order)


@given(scores=scores, value=values)
def test_the_best_group_is_always_kept(scores, value):
    assert scores.index(max(scores)) in kept(scores, value)
    assert scores.index(min(scores)) in kept(scores, value, type="smallest")
