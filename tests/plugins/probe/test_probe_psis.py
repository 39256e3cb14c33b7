"""Pareto smoothing against tails whose shape is known, and against its own definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.plugins.probe.estimation import psis
from uncollapse.plugins.probe.estimation.measured_change import Weighting
from uncollapse.plugins.probe.estimation.psis import fit_generalised_pareto, smooth


def pareto(k, count, sigma=1.0):
    """Quantiles of the generalised Pareto distribution at the middles of ``count`` equal shares, ascending."""
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return sigma * torch.expm1(-k * torch.log1p(-levels)) / k if k else -sigma * torch.log1p(-levels)


@pytest.mark.parametrize("k", [-0.4, 0.1, 0.5, 0.9, 1.3])
@pytest.mark.parametrize("sigma", [0.01, 1.0, 300.0])
def test_the_shape_and_scale_of_pareto_numbers(k, sigma):
    n = 4000
    found, scale = fit_generalised_pareto(pareto(k, n, sigma))
    assert found == pytest.approx(k, abs=0.03) and scale == pytest.approx(sigma, rel=0.05)


def test_few_numbers_are_drawn_towards_one_half():
    n, k = 20, -0.4
    large, _ = fit_generalised_pareto(pareto(k, 4000))
    small, _ = fit_generalised_pareto(pareto(k, n))
    assert large < small < 0.5
    assert small == pytest.approx((n * k + 10 * 0.5) / (n + 10), abs=0.15)


def as_published(excess):
    """Zhang and Stephens's estimate in plain numbers, and the shape drawn towards 0.5 as in Pareto smoothing."""
    n = len(excess)
    count = 30 + math.floor(math.sqrt(n))
    quartile = excess[math.floor(n / 4 + 0.5) - 1]
    thetas = [1 / excess[-1] + (1 - math.sqrt(count / (j - 0.5))) / (3 * quartile) for j in range(1, count + 1)]

    def shape(theta):
        return sum(math.log1p(-theta * x) for x in excess) / n

    profile = [n * (math.log(-theta / shape(theta)) - shape(theta) - 1) for theta in thetas]
    weights = [1 / sum(math.exp(other - own) for other in profile) for own in profile]
    theta = sum(w * t for w, t in zip(weights, thetas, strict=True))
    return (n * shape(theta) + 10 * 0.5) / (n + 10), -shape(theta) / theta


@pytest.mark.parametrize("n", [5, 6, 7, 8, 17, 40])
def test_the_fit_is_the_published_one(n):
    excess = torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64).pow(-0.8).sort().values
    assert fit_generalised_pareto(excess) == pytest.approx(as_published(excess.tolist()), rel=1e-9)


@pytest.mark.parametrize("k", [0.2, 0.7, 1.2])
def test_random_weights_with_a_pareto_tail(k):
    uniform = torch.rand(20000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = (1 - uniform) ** -k  # P(w > x) = x^(-1/k)
    _, found = smooth(weights.log())
    assert found == pytest.approx(k, abs=0.12)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(25, 400), spread=st.floats(0.01, 5), shift=st.floats(-300, 300))
def test_what_smoothing_does_to_any_weights(seed, count, spread, shift):
    generator = torch.Generator().manual_seed(seed)
    log_weights = spread * torch.randn(count, generator=generator, dtype=torch.float64) + shift
    smoothed, k = smooth(log_weights)
    tail = math.ceil(min(count / 5, 3 * math.sqrt(count)))
    assert math.isfinite(k) and bool(smoothed.isfinite().all())
    assert float(smoothed.max()) <= float(log_weights.max()) + 1e-12
    order = log_weights.argsort()
    # what is not of the tail stays as it is, and the order of all weights too
    torch.testing.assert_close(smoothed[order[:-tail]], log_weights[order[:-tail]], rtol=0, atol=1e-10)
    assert bool((smoothed[order].diff() >= -1e-9).all())
    # neither the scale nor the order of the sample matters
    other, k_other = smooth(log_weights.flip(0) - shift)
    assert k_other == pytest.approx(k, abs=1e-6)
    torch.testing.assert_close(other.flip(0) + shift, smoothed, rtol=0, atol=1e-6)


def test_the_tail_is_replaced_by_quantiles_of_the_fit():
    generator = torch.Generator().manual_seed(2)
    log_weights = 2 * torch.randn(100, generator=generator, dtype=torch.float64)
    smoothed, k = smooth(log_weights)
    order, tail = log_weights.argsort(), 20
    largest = log_weights.max()
    raw = (log_weights[order] - largest).exp()
    shape, sigma = fit_generalised_pareto(raw[-tail:] - raw[-tail - 1])
    assert k == shape
    expected = (pareto(shape, tail, sigma) + raw[-tail - 1]).clamp(max=1).log() + largest
    torch.testing.assert_close(smoothed[order[-tail:]], expected, rtol=1e-12, atol=1e-12)


def test_a_tail_of_shape_0_is_exponential(monkeypatch):
    log_weights = torch.arange(25, dtype=torch.float64) / 10 - 3.0  # the tail is the largest five
    monkeypatch.setattr(psis, "fit_generalised_pareto", lambda excess: (0.0, 0.05))
    smoothed, k = smooth(log_weights)
    above = [-0.05 * math.log(1 - level) for level in (0.1, 0.3, 0.5, 0.7, 0.9)]
    expected = [min(math.log(x + math.exp(-0.5)), 0.0) - 0.6 for x in above]
    assert k == 0 and smoothed[20:].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("log_weights", [[0.3] * 200, [0.0] * 195 + [1.0] * 5, [1.0, 2.0, 3.0, 5.0]])
def test_weights_without_a_tail_stay_as_they_are(log_weights):
    given_ = torch.tensor(log_weights, dtype=torch.float64)
    smoothed, k = smooth(given_)
    assert torch.equal(smoothed, given_) and math.isnan(k)


def test_the_tail_has_five_weights_at_least():
    spread = torch.arange(21, dtype=torch.float64).square() / 100
    assert math.isfinite(smooth(spread)[1]) and math.isnan(smooth(spread[1:])[1])


def test_a_tail_that_begins_as_what_is_below_it_has_no_shape():
    rising = torch.linspace(0.1, 2, 19, dtype=torch.float64)
    tied = torch.cat([torch.zeros(81, dtype=torch.float64), rising])  # the tail is the largest 20
    smoothed, k = smooth(tied)
    assert math.isnan(k) and torch.equal(smoothed, tied)
    tied[80] = 0.05
    assert math.isfinite(smooth(tied)[1])


def test_one_weight_above_equal_ones_is_a_tail():
    weights = torch.tensor([0.0] * 80 + [1.0] * 19 + [2.0], dtype=torch.float64)
    smoothed, k = smooth(weights)
    raw = (weights - 2).exp()
    assert k == pytest.approx(as_published((raw[80:] - raw[0]).tolist())[0], rel=1e-9)
    assert float(smoothed[80:].std()) > 0 and torch.equal(smoothed[:80], weights[:80])


def test_weights_below_the_smallest_number_leave_no_tail():
    weights = torch.tensor([-900.0] * 30 + [-800.0, -790.0, -780.0, -770.0, -760.0, -750.0, 0.0], dtype=torch.float64)
    smoothed, k = smooth(weights)
    assert math.isnan(k) and torch.equal(smoothed, weights)


def test_heavy_tails_lose_their_largest_weights():
    weights = torch.cat([torch.ones(900, dtype=torch.float64), 1 + pareto(1.0, 100)])
    used, done = Weighting("psis").apply(weights.log())
    assert done["pareto_k"] > 0.7
    assert float(used.exp().max()) <= float(weights.max()) and bool((used[:900] == 0).all())


def test_weights_are_clipped_at_ten_by_default():
    assert Weighting("clip").apply(torch.tensor([1.0, 12.0]).log())[0].exp().tolist() == pytest.approx([1.0, 10.0])


def test_clipping():
    weights = torch.tensor([0.1, 1.0, 4.0, 20.0], dtype=torch.float64)
    used, done = Weighting("clip", 4.0).apply(weights.log())
    assert used.exp().tolist() == pytest.approx([0.1, 1, 4, 4]) and done == {"clipped_fraction": 0.25}
    for mode in ("snis", "is"):
        same, done = Weighting(mode).apply(weights.log())
        assert torch.equal(same, weights.log()) and done == {}


def test_a_tail_with_a_single_smaller_weight_has_a_shape():
    log_weights = torch.zeros(25, dtype=torch.float64)
    log_weights[:4], log_weights[4] = 2.0, 1.0
    smoothed, k = smooth(log_weights)
    assert not math.isnan(k)
    assert smoothed.max() <= 2.0
