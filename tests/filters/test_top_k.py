import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from uncollapse.core.errors import RunError
from uncollapse.filters.top_k import TopF, TopK

S = [0, 2.5, 5, 0.1, 0, 5.2, 1, 0.3]
scores = st.lists(st.integers(0, 1000).map(lambda n: n / 64), min_size=1, max_size=12)


def kept(rule, scores) -> set[int]:
    return set(rule.select(torch.tensor(scores, dtype=torch.float32)).nonzero().flatten().tolist())


@pytest.mark.parametrize(
    ("value", "params", "expected"),
    [
        (0.5, {}, {5, 2, 1, 6}),
        (0.4, {}, {5, 2, 1}),
        (0.05, {}, {5}),
        (0.9, {"include_zero": False}, {5, 2, 1, 6, 7, 3}),
        (0.25, {"type": "smallest"}, {0, 4}),
        (0.25, {"type": "smallest", "include_zero": False}, {3, 7}),
        (0.8, {}, {5, 2, 1, 6, 7, 3}),
        (0.6, {}, {5, 2, 1, 6}),
        (1.0, {}, set(range(8))),
    ],
)
def test_top_f_vectors(value, params, expected):
    assert kept(TopF(value, **params), S) == expected


def test_top_f_counts_groups_that_were_left_out():
    assert kept(TopF(0.5, include_zero=False), [0, 0, 0, 3, 1, 2]) == {3, 4, 5}


@pytest.mark.parametrize(("value", "P", "count"), [(0.29, 100, 29), (0.57, 100, 57), (0.6, 5, 3), (0.59, 5, 2)])
def test_top_f_is_not_deceived_by_rounding(value, P, count):
    assert len(kept(TopF(value), range(P))) == count


def test_top_k_vector():
    assert kept(TopK(3), S) == {5, 2, 1}


@pytest.mark.parametrize(("ratio", "count"), [(1.0, 8), (0.8, 6), (0.6, 4), (0.4, 3)])
def test_a_fraction_and_the_count_that_the_smoke_test_made_of_it_agree(ratio, count):
    assert int(ratio * 8) == count
    assert kept(TopF(ratio), S) == kept(TopK(count), S)


def test_more_than_there_are_keeps_all():
    assert kept(TopK(99), S) == set(range(8))
    assert kept(TopK(99, include_zero=False), S) == {1, 2, 3, 5, 6, 7}


@pytest.mark.parametrize("rule", [TopK(2), TopF(0.5)])
def test_ties_keep_the_original_order(rule):
    assert kept(rule, [1, 1, 1, 1]) == {0, 1}
    assert kept(rule, [0, 0, 0, 0]) == {0, 1}


@pytest.mark.parametrize("rule", [TopK(2, include_zero=False), TopF(0.5, include_zero=False)])
def test_nothing_left(rule):
    assert kept(rule, [0, 9e-11, -9e-11]) == set()
    assert rule.select(torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize("value", [0.4, 0.5, 1.0, 0, -1, True, float("nan")])
def test_top_k_refuses_what_is_not_a_count_and_names_top_f(value):
    with pytest.raises(ValueError, match="top_f"):
        TopK(value)


@pytest.mark.parametrize("value", [8, 1.5])
def test_top_f_refuses_a_count_and_names_top_k(value):
    with pytest.raises(ValueError, match="top_k"):
        TopF(value)


@pytest.mark.parametrize("value", [0, -0.5, float("nan")])
def test_top_f_refuses_what_is_not_a_fraction(value):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        TopF(value)


@pytest.mark.parametrize("rule", [TopK(1), TopF(0.5)])
def test_nan_is_refused(rule):
    with pytest.raises(RunError, match="NaN"):
        rule.select(torch.tensor([1.0, float("nan")]))


@given(scores=scores, k=st.integers(1, 15), order=st.sampled_from(["largest", "smallest"]), include_zero=st.booleans())
def test_keeps_the_k_best_of_those_that_take_part(scores, k, order, include_zero):
    chosen = kept(TopK(k, type=order, include_zero=include_zero), scores)
    candidates = {i for i, score in enumerate(scores) if include_zero or score}
    assert chosen <= candidates
    assert len(chosen) == min(k, len(candidates))
    sign = 1 if order == "largest" else -1
    assert all(sign * scores[i] >= sign * scores[j] for i in chosen for j in candidates - chosen)


@given(scores=scores, k=st.integers(1, 15), order=st.sampled_from(["largest", "smallest"]), data=st.data())
def test_permuting_groups_permutes_the_selection(scores, k, order, data):
    assume(len(set(scores)) == len(scores))
    places = data.draw(st.permutations(range(len(scores))))
    permuted = kept(TopK(k, type=order), [scores[i] for i in places])
    assert {places[i] for i in permuted} == kept(TopK(k, type=order), scores)


@given(scores=scores, pair=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted))
def test_a_larger_fraction_keeps_at_least_as_much(scores, pair):
    assert kept(TopF(pair[0]), scores) <= kept(TopF(pair[1]), scores)


def test_a_score_of_exactly_the_bound_counts_as_zero():
    scores = torch.tensor([1e-10, -1e-10, 1.1e-10], dtype=torch.float64)
    assert TopK(3, include_zero=False).select(scores).tolist() == [False, False, True]
