"""On a policy that can be enumerated: what is estimated is the exact change, and its variance is the true one."""

import math

import attrs
import pytest
import torch
from uncollapse.estimators.variance.controls import CvBatchSe
from uncollapse.estimators.variance.diagnostics import SnisEss
from uncollapse.estimators.variance.entropy_change import (
    mean_entropy,
    predicted_change,
    predicted_change_reward_to_go,
    true_change,
)
from uncollapse.estimators.variance.legacy import LegacyCvBatchSe, LegacyJvpShardSe
from uncollapse.estimators.variance.sequences import (
    Bootstrap,
    DerivDelta,
    DerivDeltaRewardToGo,
    DerivJackknife,
    EntropyPromptJackknife,
    JvpShardSe,
    PairedDifference,
    SnisBootstrap,
    SnisDelta,
    SnisJackknife,
)
from uncollapse.estimators.variance.terms import Terms

UNITS = ["per_sequence", "per_token_ratio", "per_seq_token_mean"]
REPLICATIONS, PROMPTS, GROUP_SIZE, SHARDS = 500, 40, 2, 8


def population(toy, eta, unit, baseline=0.0):
    """The features of a statistic over all sequences, weighted by their probability."""
    p, table = toy.table(eta, baseline)
    terms = Terms(eta=eta, entropy_unit=unit, **{name: x.flatten(0, 1) for name, x in table.items()})
    return p.flatten(), terms


def at(statistic, p):
    """Its value when every sequence is seen as often as it is probable."""
    return float(statistic.function(p @ statistic.features_C_F))


@pytest.mark.parametrize("unit", UNITS)
def test_the_statistics_of_the_whole_population_are_exact(toy, unit):
    p, terms = population(toy, 0.3, unit)
    assert at(mean_entropy(terms), p) == pytest.approx(float(toy.entropy(toy.theta, unit)), rel=1e-12)
    assert at(predicted_change(terms), p) == pytest.approx(0.3 * toy.slope(unit), rel=1e-10)
    assert at(true_change(terms), p) == pytest.approx(toy.change(0.3, unit), rel=1e-10)


@pytest.mark.parametrize("unit", UNITS[:2])
@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_rewards_to_go_with_any_baseline_give_the_same_slope(toy, unit, baseline):
    p, terms = population(toy, 1.0, unit, baseline)
    assert at(predicted_change_reward_to_go(terms), p) == pytest.approx(toy.slope(unit), rel=1e-10)


def test_the_denominator_has_a_derivative_too(toy):
    p, terms = population(toy, 1.0, "per_token_ratio")
    without = attrs.evolve(terms, Tj=torch.zeros_like(terms.Tj))
    assert abs(at(predicted_change_reward_to_go(without), p) - toy.slope("per_token_ratio")) > 0.01


def test_the_prediction_is_the_derivative_of_the_measurement_on_any_sample(toy):
    difference = []
    for eta in (1e-3, 1e-4):
        terms = toy.sample(eta, 10, 2, torch.Generator().manual_seed(3), entropy_unit="per_token_ratio")
        difference.append(PairedDifference().estimate(terms).value / eta**2)
    assert difference[0] == pytest.approx(difference[1], rel=0.02)
    assert abs(difference[0]) > 1e-3


@pytest.fixture(scope="module", params=UNITS[:2])
def replications(request, toy):
    generator = torch.Generator().manual_seed(1)
    shard = (torch.arange(PROMPTS) % SHARDS).repeat_interleave(GROUP_SIZE)
    options = {"entropy_unit": request.param, "shard": shard}
    return [toy.sample(0.2, PROMPTS, GROUP_SIZE, generator, **options) for _ in range(REPLICATIONS)]


def calibration(estimator, replications):
    """Mean of the estimated variances over the variance of the values; the bias of the values in their own se."""
    estimates = [estimator.estimate(terms) for terms in replications]
    assert {estimate.status for estimate in estimates} == {"ok"}
    values = torch.tensor([estimate.value for estimate in estimates], dtype=torch.float64)
    var = torch.tensor([estimate.var for estimate in estimates], dtype=torch.float64)
    return float(var.mean() / values.var()), values


@pytest.mark.parametrize(
    "estimator",
    [
        DerivDelta(),
        DerivDeltaRewardToGo(),
        DerivJackknife(),
        JvpShardSe(),
        CvBatchSe(),
        SnisDelta(),
        SnisJackknife(),
        PairedDifference(),
        EntropyPromptJackknife(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_the_mean_variance_is_that_of_the_values(replications, estimator):
    ratio, _ = calibration(estimator, replications)
    assert 0.8 < ratio < 1.25


@pytest.mark.parametrize("estimator", [DerivDelta(), DerivDeltaRewardToGo(), CvBatchSe()])
def test_predictions_scatter_around_the_exact_one(toy, replications, estimator):
    _, values = calibration(estimator, replications)
    exact = 0.2 * toy.slope(replications[0].entropy_unit)
    # a ratio is biased by O(1 / prompts), far below its own spread
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(REPLICATIONS) + 0.05 * abs(exact)


def test_sequences_of_one_prompt_are_not_independent(replications):
    ratio, _ = calibration(EntropyPromptJackknife(), [attrs.evolve(terms, prompt=None) for terms in replications])
    assert ratio < 0.8


def test_historic_numbers_are_too_small_by_the_number_of_shards_or_units(replications):
    shards, _ = calibration(LegacyJvpShardSe(), replications)
    units, _ = calibration(LegacyCvBatchSe(), replications)
    assert 0.7 < shards * SHARDS**2 < 1.4
    assert 0.3 < units * PROMPTS**2 < 1.0  # smaller still by the in-sample fit


@pytest.mark.parametrize(
    "pair", [(Bootstrap(resamples=2000), DerivDelta()), (SnisBootstrap(resamples=2000), SnisDelta())]
)
def test_the_bootstrap_agrees_with_the_delta_method(toy, pair):
    terms = toy.sample(0.2, 200, 1, torch.Generator().manual_seed(5), entropy_unit="per_token_ratio")
    bootstrap, delta = (estimator.estimate(terms) for estimator in pair)
    assert bootstrap.se == pytest.approx(delta.se, rel=0.1)
    assert bootstrap.value == delta.value
    assert bootstrap.extra["ci_low"] == pytest.approx(delta.value - 1.96 * delta.se, abs=0.3 * delta.se)
    assert bootstrap.extra["ci_high"] == pytest.approx(delta.value + 1.96 * delta.se, abs=0.3 * delta.se)


def test_the_mean_weight_is_1_within_its_error(replications):
    estimates = [SnisEss().estimate(terms) for terms in replications]
    means = torch.tensor([estimate.extra["mean_w"] for estimate in estimates], dtype=torch.float64)
    var = torch.tensor([estimate.var for estimate in estimates], dtype=torch.float64)
    assert abs(float(means.mean()) - 1) < 4 * float(means.std()) / math.sqrt(REPLICATIONS)
    assert 0.8 < float(var.mean() / means.var()) < 1.25


def test_independent_samples_give_z_scores_of_unit_spread(toy):
    eta, generator, z = 1e-3, torch.Generator().manual_seed(9), []
    for _ in range(300):
        predicted, measured = (toy.sample(eta, 60, 1, generator) for _ in range(2))
        p, m = DerivDelta().estimate(predicted), SnisDelta().estimate(measured)
        z.append((p.value - m.value) / math.sqrt(p.var + m.var))
    z = torch.tensor(z, dtype=torch.float64)
    assert abs(float(z.mean())) < 0.2
    assert 0.85 < float(z.std()) < 1.15
