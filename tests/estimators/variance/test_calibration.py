"""Products of means of vectors: the mean of the estimated variances is the variance of the product."""

import pytest
import torch
from uncollapse.estimators.variance.products import ConditionalE, ConditionalU, VxVy, VxVyUnbiased
from uncollapse.estimators.variance.terms import Terms
from uncollapse.estimators.variance.ustat import UstatJackknife, UstatPlugin, projections

N, M, D = 6, 5, 4
MEAN_X, MEAN_Y = 0.4, 0.3
# independent unit normals about these means: traces and quadratic forms by hand
V_X, V_Y, V_XY = D * MEAN_Y**2 / N, D * MEAN_X**2 / M, D / (N * M)


@pytest.fixture(scope="module")
def draws():
    g = torch.Generator().manual_seed(0)
    for_x, for_y = (torch.randn(2000, n, D, generator=g, dtype=torch.float64) for n in (N, M))
    result = []
    for X, Y in zip(for_x + MEAN_X, for_y + MEAN_Y, strict=True):
        K = X @ Y.T
        result.append((X, Y, Terms(eta=1, s_N=K.mean(1), t_M=K.mean(0), K_NM=K)))
    return result


def mean(values):
    return float(torch.tensor(list(values), dtype=torch.float64).mean())


def test_over_both_batches(draws):
    true = V_X + V_Y + V_XY
    estimates = [VxVyUnbiased().estimate(terms) for *_, terms in draws]
    values = torch.tensor([estimate.value for estimate in estimates], dtype=torch.float64)
    assert float(values.var()) == pytest.approx(true, rel=0.1)
    unclipped = mean(e.extra["V_X"] + e.extra["V_Y"] - e.extra["V_XY"] for e in estimates)
    assert unclipped == pytest.approx(true, rel=0.04)
    # counts the trace twice
    assert mean(VxVy().estimate(terms).var for *_, terms in draws) == pytest.approx(true + V_XY, rel=0.04)


def test_given_one_batch(draws):
    given_U = [(ConditionalE().estimate(terms).var, float(Y.mean(0).square().sum()) / N) for _, Y, terms in draws]
    given_E = [(ConditionalU().estimate(terms).var, float(X.mean(0).square().sum()) / M) for X, _, terms in draws]
    for pairs in (given_U, given_E):
        assert mean(estimate for estimate, _ in pairs) == pytest.approx(mean(true for _, true in pairs), rel=0.04)


def test_conditional_variance_by_enumeration():
    """All 27 equally likely draws of three prompts out of three: the mean of the variances is exactly the variance."""
    s = torch.tensor([0.5, -1.0, 3.0], dtype=torch.float64)
    draws = [s[list(index)] for index in torch.cartesian_prod(*[torch.arange(3)] * 3).tolist()]
    estimates = [ConditionalE().estimate(Terms(eta=2, s_N=draw)) for draw in draws]
    assert [e.status for e in estimates].count(
        "zero_variance"
    ) == 3  # the three draws without spread, whose variance is 0
    total = sum(e.var for e in estimates if e.status == "ok")
    values = torch.stack([2 * draw.mean() for draw in draws])
    assert total / 27 == pytest.approx(float(values.var(correction=0)), rel=1e-12)


def test_one_batch_for_both():
    g, U, values, found = torch.Generator().manual_seed(1), 64, [], {UstatPlugin: [], UstatJackknife: []}
    for _ in range(800):
        X = torch.randn(U, D, generator=g, dtype=torch.float64) + 0.3
        Y = 0.5 * X + torch.randn(U, D, generator=g, dtype=torch.float64)
        terms = Terms(eta=1, r_U=projections(X @ Y.T))
        for estimator, variances in found.items():
            estimate = estimator().estimate(terms)
            variances.append(estimate.var)
        values.append(estimate.value)
    values = torch.tensor(values, dtype=torch.float64)
    assert float(values.mean()) == pytest.approx(D * 0.3 * 0.15, abs=4 * float(values.std()) / 800**0.5)
    for variances in found.values():
        assert 0.8 < mean(variances) / float(values.var()) < 1.25
