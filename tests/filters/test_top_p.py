import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from uncollapse.core.errors import RunError
from uncollapse.filters.top_p import TopP

S = [0, 2.5, 5, 0.1, 0, 5.2, 1, 0.3]
scores = st.lists(st.integers(0, 1000).map(lambda n: n / 64), min_size=1, max_size=12)
values = st.floats(0.05, 0.95)


def kept(scores, value, **params) -> set[int]:
    return set(TopP(value, **params).select(torch.tensor(scores, dtype=torch.float32)).nonzero().flatten().tolist())


@pytest.mark.parametrize(
    ("scores", "value", "order", "include_zero", "expected"),
    [
        ([4, 3, 2, 1], 0.6, "largest", True, {0, 1}),
        ([0, 0, 0, 0], 0.9, "largest", True, set()),
        ([0, 0, 0, 0], 0.9, "largest", False, set()),
        ([4, 2, 0, 0], 1.0, "largest", True, {0, 1, 2, 3}),
        ([0, 0, 0], 1.0, "largest", True, {0, 1, 2}),
        ([1, 3, 2], 1.0, "largest", True, {0, 1, 2}),
        ([10, 1, 0, 0], 0.9, "largest", False, {0}),
        ([4, 2, 0, 0], 0.9, "largest", False, {0, 1}),
        ([3, 1, 1, 0], 0.9, "largest", False, {0, 1, 2}),
        (S, 0.9, "largest", True, {5, 2, 1}),
        (S, 0.6, "largest", True, {5, 2}),
        (S, 0.98, "largest", False, {5, 2, 1, 6, 7}),
        (S, 0.9, "smallest", True, set()),
        (S, 0.9, "smallest", False, {3, 7, 6, 1, 2, 5}),
        (S, 1.0, "largest", False, {1, 2, 3, 5, 6, 7}),
        ([0.005, 0.003, 0, 0], 0.9, "largest", True, set()),
        ([-1, -0.5, 2, 1], 0.9, "largest", True, {2}),
        ([0.5, 0.5, 0.48, 0.34, 0.25, 0, 0, 0], 0.9, "largest", True, {0, 1, 2, 3, 4}),
    ],
)
def test_linear_vectors(scores, value, order, include_zero, expected):
    assert kept(scores, value, type=order, include_zero=include_zero) == expected


@pytest.mark.parametrize(
    ("scores", "value", "order", "include_zero", "expected"),
    [
        ([1, 1, 1], 0.6, "largest", True, {0, 1}),
        ([10, 1, 0, 0], 0.9, "largest", False, {0}),
        ([4, 2, 0, 0], 0.9, "largest", False, {0, 1}),
        ([1, 1, 1, 0], 0.6, "largest", False, {0, 1}),
        (S, 0.9, "largest", True, {5, 2}),
        (S, 0.6, "largest", True, {5, 2}),
        (S, 0.4, "largest", True, {5}),
        (S, 0.98, "largest", True, {5, 2, 1, 6}),
        (S, 0.9, "smallest", True, {0, 4, 3, 7, 6}),
        ([0, 0, 0, 0], 0.9, "largest", True, {0, 1, 2, 3}),
        ([0, 0, 0, 0], 0.9, "largest", False, set()),
        ([0.5, 0.5, 0.48, 0.34, 0.25, 0, 0, 0], 0.9, "largest", True, {0, 1, 2, 3, 4, 5, 6}),
        ([1] * 10, 0.9, "largest", True, set(range(9))),
    ],
)
def test_softmax_vectors(scores, value, order, include_zero, expected):
    assert kept(scores, value, type=order, include_zero=include_zero, prob_mode="softmax") == expected


def test_the_linear_threshold_is_met_exactly_or_not():
    assert kept([6, 4], 0.6, eps=0) == {0}
    assert kept([6, 4], 0.61, eps=0) == {0, 1}
    assert kept([6, 4], 0.61, eps=0.1) == {0}


def test_a_hundredth_is_taken_off_the_mass_by_default():
    assert kept([0.6, 0.4], 0.609) == {0}
    assert kept([0.6, 0.4], 0.611) == {0, 1}
    assert kept([0.0099, 0.0], 1.0 - 1e-9) == set()
    assert kept([0.0102, 0.0], 1.0 - 1e-9) == {0}


@pytest.mark.parametrize("mode", ["linear", "softmax"])
def test_ties_keep_the_original_order(mode):
    assert kept([1, 2, 1, 2, 1, 2], 0.3, prob_mode=mode) == {1, 3}
    assert kept([2, 1, 2, 1, 2, 1], 0.3, prob_mode=mode, type="smallest") == ({1, 3, 5} if mode == "linear" else {1, 3})


@pytest.mark.parametrize("mode", ["linear", "softmax"])
@pytest.mark.parametrize("include_zero", [True, False])
@pytest.mark.parametrize("value", [0.5, 1.0])
def test_no_groups_give_an_empty_selection(mode, include_zero, value):
    keep_P = TopP(value, include_zero=include_zero, prob_mode=mode).select(torch.zeros(0))
    assert keep_P.shape == (0,)
    assert keep_P.dtype == torch.bool


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_any_dtype(dtype):
    assert TopP(0.6).select(torch.tensor([1, 2, 3, 4], dtype=dtype)).tolist() == [False, False, True, True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("value", [0.5, 1.0])
def test_scores_that_are_not_finite_are_refused(bad, value):
    with pytest.raises(RunError, match=r"(?s)NaN or infinite.*\[1\]"):
        TopP(value).select(torch.tensor([1.0, bad, 2.0]))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"value": 0}, "must lie in"),
        ({"value": 8}, "top_k"),
        ({"value": float("nan")}, "must lie in"),
        ({"value": 0.5, "type": "biggest"}, "type"),
        ({"value": 0.5, "prob_mode": "log"}, "prob_mode"),
        ({"value": 0.5, "eps": -1}, "eps"),
    ],
)
def test_parameters_are_checked(params, message):
    with pytest.raises(ValueError, match=message):
        TopP(**params)


@given(
    scores=scores,
    value=values,
    mode=st.sampled_from(["linear", "softmax"]),
    order=st.sampled_from(["largest", "smallest"]),
    data=st.data(),
)
def test_permuting_groups_permutes_the_selection(scores, value, mode, order, data):
    assume(len(set(scores)) == len(scores))
    places = data.draw(st.permutations(range(len(scores))))
    expected = kept(scores, value, prob_mode=mode, type=order, include_zero=False)
    permuted = kept([scores[i] for i in places], value, prob_mode=mode, type=order, include_zero=False)
    assert {places[i] for i in permuted} == expected


@given(scores=scores, value=values, shift=st.integers(-100, 100), order=st.sampled_from(["largest", "smallest"]))
def test_softmax_ignores_a_shift(scores, value, shift, order):
    shifted = [score + shift for score in scores]
    assert kept(shifted, value, prob_mode="softmax", type=order) == kept(scores, value, prob_mode="softmax", type=order)


def test_softmax_depends_on_the_unit():
    assert kept([1, 2, 3], 0.9, prob_mode="softmax") == {1, 2}
    assert kept([10, 20, 30], 0.9, prob_mode="softmax") == {2}


@given(scores=scores, value=values, power=st.integers(-8, 8))
def test_linear_is_free_of_the_unit_when_eps_is_too(scores, value, power):
    scale = 2.0**power
    assert kept([s * scale for s in scores], value, eps=0.01 * scale) == kept(scores, value)


@given(
    scores=scores,
    pair=st.tuples(values, values).map(sorted),
    mode=st.sampled_from(["linear", "softmax"]),
    order=st.sampled_from(["largest", "smallest"]),
)
def test_a_larger_share_keeps_at_least_as_much(scores, pair, mode, order):
    params = {"prob_mode": mode, "type": order, "include_zero": False, "eps": 0.0}
    assert kept(scores, pair[0], **params) <= kept(scores, pair[1], **params)


@given(scores=scores, value=values)
def test_linear_keeps_the_shortest_beginning_that_reaches_the_mass(scores, value):
    target = value * sum(scores) - 0.01
    ranked = sorted(range(len(scores)), key=lambda i: -scores[i])
    prefixes = [ranked[:k] for k in range(len(scores) + 1) if sum(scores[i] for i in ranked[:k]) >= target]
    # Sums of multiples of 1/64 are exact, so only the product with the share could round differently; it does not.
    assert kept(scores, value) == set(prefixes[0])


@given(scores=scores, value=values, order=st.sampled_from(["largest", "smallest"]))
def test_softmax_never_keeps_nothing_and_no_group_beyond_the_mass(scores, value, order):
    chosen = kept(scores, value, prob_mode="softmax", type=order)
    signed = torch.tensor(scores, dtype=torch.float64) * (1 if order == "largest" else -1)
    mass = signed.softmax(0)
    assert chosen
    assert mass[sorted(chosen)].sum() >= value - 2e-6
    assert mass[sorted(chosen)].sum() - mass[sorted(chosen)].min() < value
