"""A band of ranks."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.compose.inner import named_of
from uncollapse.core.errors import RunError
from uncollapse.filters.quantile import Quantile
from uncollapse.filters.top_k import TopF

S = [0, 2.5, 5, 0.1, 0, 5.2, 1, 0.3]
scores = st.lists(st.integers(0, 20).map(lambda n: n / 64), max_size=15)
shares = st.floats(0, 1)


def kept(rule, scores) -> set[int]:
    rule = named_of("rollout_filter", rule, "filter.select").component if isinstance(rule, str) else rule
    return set(rule.select(torch.tensor(scores, dtype=torch.float32)).nonzero().flatten().tolist())


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        ("quantile", {5, 2}),
        ("quantile(0.25, 0.5)", {1, 6}),
        ("quantile(0.5, 0.75)", {7, 3}),
        ("quantile(0.75, 1)", {0, 4}),
        ("quantile(0.25, 0.5, type=smallest)", {3, 7}),
        ("quantile(0.5, 1, include_zero=false)", {6, 7, 3}),
        ("quantile(0.3, 0.4)", {1}),
        ("quantile(0.3, 0.35)", set()),
        ("quantile(0, 1)", set(range(8))),
    ],
)
def test_vectors(spelled, expected):
    assert kept(spelled, S) == expected


@given(scores, st.lists(shares.filter(lambda share: 0 < share < 1), max_size=4, unique=True), st.booleans())
def test_bands_that_meet_share_no_group_and_leave_none_out(scores, cuts, include_zero):
    edges = [0.0, *sorted(cuts), 1.0]
    bands = [kept(Quantile(*band, include_zero=include_zero), scores) for band in pairwise(edges)]
    taking_part = {i for i, score in enumerate(scores) if include_zero or score}
    assert sum(map(len, bands)) == len(taking_part)
    assert set().union(*bands) == taking_part
    for better, worse in pairwise(bands):
        assert all(scores[i] >= scores[j] for i in better for j in worse)


@given(scores.filter(len), st.integers(1, 100).map(lambda n: n / 100))
def test_the_first_band_is_the_best_fraction(scores, share):
    band, fraction = kept(Quantile(0, share), scores), kept(TopF(share), scores)
    assert band == (fraction if share * len(scores) >= 1 - 1e-9 else set())


@given(scores, st.permutations(range(15)))
def test_permuting_groups_permutes_the_band(scores, order):
    scores = [score + number / 1000 for number, score in enumerate(scores)]
    order = [place for place in order if place < len(scores)]
    permuted = kept(Quantile(0.2, 0.7), [scores[place] for place in order])
    assert {order[place] for place in permuted} == kept(Quantile(0.2, 0.7), scores)


def test_equal_scores_keep_their_order():
    assert kept("quantile(0.25, 0.75)", [1, 1, 1, 1]) == {1, 2}


def test_all_are_kept_only_where_the_band_is_the_whole():
    assert Quantile(0, 1).keeps_all
    assert not any(rule.keeps_all for rule in (Quantile(), Quantile(0.1, 1), Quantile(0, 1, include_zero=False)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ((0.5, 0.5), "high must be more than low, 0.5, got 0.5"),
        ((-0.1, 0.5), "low"),
        ((0, 1.1), "high"),
        ((1, 1), "low"),
        ((float("nan"), 1), "low"),
        ((0, 1, "best"), "type"),
    ],
)
def test_what_is_no_band_is_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Quantile(*parameters)


def test_nan_is_refused():
    with pytest.raises(RunError, match="NaN"):
        Quantile().select(torch.tensor([1.0, float("nan")]))


@pytest.mark.parametrize(
    ("rule", "groups", "refused"),
    [
        (Quantile(0.3, 0.32), 8, True),
        (Quantile(0.3, 0.4), 8, False),
        (Quantile(), 3, True),
        (Quantile(), 4, False),
        (Quantile(0.11, 0.1112), 9, False),
        (Quantile(0.11, 0.1112), 18, False),
        (Quantile(0.11, 0.1112), 10, True),
        # of ten groups one may have a score of 0, and then the band holds the first rank
        (Quantile(0.11, 0.1112, include_zero=False), 10, False),
        (Quantile(0.11, 0.1112, include_zero=False), 9, False),
        (Quantile(0.11, 0.1112, include_zero=False), 8, True),
        (Quantile(0.5, 1, include_zero=False), 1, False),
    ],
)
def test_a_band_without_a_rank_of_the_groups_is_refused(rule, groups, refused):
    experiment = SimpleNamespace(rollout=SimpleNamespace(groups=groups))
    assert [f"rollout.groups = {groups}" in reason for reason in rule.check(experiment)] == [True] * refused
    possible = range(1, groups + 1) if not rule.include_zero else [groups]
    assert refused == all(not kept(rule, [float(n + 1) for n in range(count)]) for count in possible)
