import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from uncollapse.plugins.report import stratified
from uncollapse.plugins.report.rank_correlation import correlation, partial, ranks, student_p, student_quantile

X, Y = [1, 2, 3, 4, 5], [5, 6, 7, 8, 7]
TIED_X, TIED_Y = [1, 2, 2, 4, 5, 6], [3, 1, 4, 4, 6, 5]
SMALL = st.integers(0, 5).map(float)
PAIRS = st.lists(st.tuples(SMALL, SMALL), min_size=3, max_size=7)


def spearman(x, y):
    return stratified.rank_correlation([list(zip(x, y, strict=True))])


def independence_p(x, y):
    return stratified.independence_p([list(zip(x, y, strict=True))])


def jackknife_error(x, y):
    return stratified.jackknife_error([list(zip(x, y, strict=True))])


def test_equal_values_share_the_mean_of_their_ranks():
    assert ranks([30, 10, 20, 10]).tolist() == [4, 1.5, 3, 1.5]
    assert ranks([[7, 7, 7], [3, 1, 2]]).tolist() == [[2, 2, 2], [3, 1, 2]]


def test_rank_correlations_are_those_of_scipy():
    # scipy 1.17.1: spearmanr(X, Y).statistic, spearmanr(TIED_X, TIED_Y).statistic
    assert spearman(X, Y) == pytest.approx(0.8207826816681233, abs=1e-14)
    assert spearman(TIED_X, TIED_Y) == pytest.approx(0.8088235294117647, abs=1e-14)


def test_rank_correlations_of_many_kinds_of_pairs_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    chance = random.Random(3)
    for count in range(3, 40):
        x = [chance.choice([chance.random(), chance.randrange(4)]) for _ in range(count)]
        y = [value * chance.choice([-1, 1, 2]) for value in x]
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_strata_are_ranked_by_themselves():
    # within each task the metric goes against success, and the easier task has more of both
    easy, hard = [(11.0, 0.9), (12.0, 0.8), (13.0, 0.7)], [(1.0, 0.3), (2.0, 0.2), (3.0, 0.1)]
    assert spearman(*zip(*easy, *hard, strict=True)) == pytest.approx(1 - 6 * 16 / 210)
    assert stratified.rank_correlation([easy, hard]) == pytest.approx(-1.0)
    # one of 6 orders in each stratum, in either direction: 2 of 36
    assert stratified.independence_p([easy, hard]) == pytest.approx(2 / 36)
    # a stratum that is constant on one side says nothing of the order, and its spread on the other counts
    flat = [(1.0, 0.5), (2.0, 0.5)]
    assert stratified.rank_correlation([easy, flat]) == pytest.approx(-2 / math.sqrt(2.5 * 2))
    assert stratified.rank_correlation([flat]) is None


def test_errors_of_the_jackknife_leave_out_each_pair_of_each_stratum():
    strata = [[(1.0, 2.0), (2.0, 1.0), (3.0, 5.0), (3.0, 4.0)], [(7.0, 1.0), (8.0, 0.0), (9.0, 3.0)]]
    without = [
        stratified.rank_correlation([[pair for pair in stratum if pair is not out] for stratum in strata])
        for each in strata
        for out in each
    ]
    mean = sum(without) / 7
    expected = math.sqrt(6 / 7 * sum((rho - mean) ** 2 for rho in without))
    assert stratified.jackknife_error(strata) == pytest.approx(expected, abs=1e-12)


def test_chances_within_many_strata_follow_students_t():
    chance = random.Random(4)
    strata = [[(chance.random(), chance.random()) for _ in range(6)] for _ in range(3)]
    rho = stratified.rank_correlation(strata)
    # 18 pairs, three means and a slope
    expected = student_p(rho * math.sqrt(14 / (1 - rho**2)), 14)
    assert stratified.independence_p(strata) == pytest.approx(expected)


def test_what_is_constant_has_no_rank_correlation():
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, 2, 3], [1, 1, 1]) is None
    assert independence_p([1, 1, 1], [1, 2, 3]) is None


def test_chances_of_few_pairs_are_those_of_all_orders():
    # scipy 1.17.1: permutation_test of the statistic over all pairings
    assert independence_p(X, Y) == pytest.approx(16 / 120)
    assert independence_p(TIED_X, TIED_Y) == pytest.approx(44 / 720)
    # three pairs in order are as likely as one in three, two directions of six orders
    assert independence_p([1, 2, 3], [4, 5, 9]) == pytest.approx(1 / 3)


def test_chances_of_many_pairs_follow_students_t():
    x = list(range(10))
    y = [2, 0, 1, 4, 3, 7, 5, 6, 9, 8]
    # sum of squared differences of ranks: 16, rho = 1 - 6 * 16 / 990
    rho = 1 - 6 * sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / 990
    assert spearman(x, y) == pytest.approx(rho)
    assert independence_p(x, y) == pytest.approx(student_p(rho * math.sqrt(8 / (1 - rho**2)), 8))
    # ten pairs in perfect order are no impossible ones
    assert independence_p(x, x) == pytest.approx(2 / math.factorial(10))


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [
        (1.0, 1, 0.5),
        (-1.0, 1, 0.5),
        (math.sqrt(2), 2, 1 - math.sqrt(0.5)),
        (12.7062, 1, 0.05),
        (4.30265, 2, 0.05),
        (3.18245, 3, 0.05),
        (2.77645, 4, 0.05),
        (2.22814, 10, 0.05),
        (1.98397, 100, 0.05),
        (0.0, 7, 1.0),
        (math.inf, 3, 0.0),
    ],
)
def test_chances_of_students_t(t, freedom, p):
    assert student_p(t, freedom) == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.7062), (2, 4.30265), (10, 2.22814)])
def test_quantiles_of_students_t(freedom, t):
    assert student_quantile(freedom) == pytest.approx(t, abs=1e-4)


def test_errors_of_the_jackknife():
    # Tukey's formula: (n - 1) / n times the squares around the mean of what leaving one pair out gives
    without = [spearman([*X[:at], *X[at + 1 :]], [*Y[:at], *Y[at + 1 :]]) for at in range(5)]
    mean = sum(without) / 5
    assert jackknife_error(X, Y) == pytest.approx(math.sqrt(4 / 5 * sum((rho - mean) ** 2 for rho in without)))
    assert jackknife_error(X, Y) == pytest.approx(0.3075217836513528)
    assert jackknife_error([1, 2, 3], [1, 3, 2]) is None
    assert jackknife_error([1, 1, 1, 2], [1, 2, 3, 4]) is None


def test_partial_correlations_take_away_what_a_third_quantity_explains():
    assert partial(0.5, 0.0, 0.0) == pytest.approx(0.5)
    assert partial(0.48, 0.6, 0.8) == pytest.approx(0.0)
    # (0.9 - 0.6 * 0.8) / (0.8 * 0.6)
    assert partial(0.9, 0.6, 0.8) == pytest.approx(0.875)
    assert partial(0.9, 1.0, 0.9) is None
    assert partial(None, 0.1, 0.2) is None


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_the_pairs_changes_nothing(pairs, chance):
    shuffled = chance.sample(pairs, len(pairs))
    (x, y), (other_x, other_y) = zip(*pairs, strict=True), zip(*shuffled, strict=True)
    assert spearman(x, y) == spearman(other_x, other_y)
    assert independence_p(x, y) == independence_p(other_x, other_y)


@given(PAIRS)
def test_a_monotone_change_changes_nothing_and_a_falling_one_the_sign_alone(pairs):
    x, y = zip(*pairs, strict=True)
    rho = spearman(x, y)
    assume(rho is not None)
    assert -1 <= rho <= 1
    assert spearman([math.exp(value) for value in x], [value**3 for value in y]) == rho
    assert spearman([-value for value in x], y) == -rho


def test_rank_correlations_are_those_of_pandas():
    pandas = pytest.importorskip("pandas")
    chance = random.Random(0)
    for count in (3, 5, 20, 60):
        x = [chance.choice([chance.gauss(0, 1), chance.randrange(3)]) for _ in range(count)]
        y = [chance.choice([chance.gauss(0, 1), value]) for value in x]
        assert ranks(x).tolist() == pandas.Series(x).rank().to_list()
        expected = pandas.DataFrame({"x": x, "y": y}).corr(method="spearman").loc["x", "y"]
        assert correlation(ranks(x), ranks(y)) == pytest.approx(expected, abs=1e-12)
