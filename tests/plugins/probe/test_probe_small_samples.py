"""Few sequences: the prediction is unbiased, and its stated error holds the truth as often as it says."""

import math
import sys
from pathlib import Path

import pytest
import torch
from uncollapse.estimators.variance.entropy_change import predicted_change
from uncollapse.estimators.variance.terms import Terms
from uncollapse.plugins.probe.estimation.measured_change import with_error
from uncollapse.plugins.probe.estimation.measurement import Measurement
from uncollapse.plugins.probe.estimation.passes import inner
from uncollapse.plugins.probe.estimation.sequences import by_others
from uncollapse.plugins.probe.small_samples import FEW, as_it_came, t_quantile, widened, widening, widening_of_blocks

sys.path.insert(0, str(Path(__file__).parent))
import exact_model as exact

UNITS = ("per_sequence", "per_token_ratio", "per_seq_token_mean")


@pytest.fixture(scope="module")
def world():
    """A policy, a direction, and the sums of 12 000 sequences drawn from the policy, prompts uniform."""
    policy = exact.ExactPolicy(11)
    v = exact.direction_of(policy, 5)
    rollouts = exact.sample(policy, 12_000, 1, torch.Generator().manual_seed(1))
    measured = Measurement(policy, rollouts, exact.Fixed(v), size=12_000, ranks=exact.ONE, eta=1.0)
    return policy, v, measured.predicted_sums


def predictions(sums, size, unit, unbiased, estimate=with_error):
    """(value, standard error) of every sample of so many sequences."""
    found = []
    for start in range(0, len(sums["H"]), size):
        own = {name: x[start : start + size] for name, x in sums.items()}
        if unbiased:
            own["S1"] = by_others(own, unit) * own["S1"]
        found.append(estimate(predicted_change(Terms(eta=1.0, entropy_unit=unit, **own))))
    return torch.tensor(found, dtype=torch.float64).T


@pytest.mark.parametrize("size", [4, 8, 16])
def test_centred_by_the_others_the_mean_prediction_is_the_truth(world, size):
    policy, v, sums = world
    true = inner(exact.entropy_gradient(policy, "per_sequence"), v)
    plain, right = (
        predictions(sums, size, "per_sequence", unbiased, estimate=lambda statistic: (statistic.value,))[0]
        for unbiased in (False, True)
    )
    # the score part of the whole sample, of which the sample's own mean takes one part in N away
    score = true - float(sums["jH"].mean())
    error = float(right.std()) / math.sqrt(len(right))
    assert abs(float(right.mean()) - true) < 4 * error
    assert abs(float((right - plain).mean()) - score / size) < 4 * float((right - plain).std()) / math.sqrt(len(right))
    # of the same sequences the two differ by N / (N - 1) in the score part, exactly
    first = {name: x[:size] for name, x in sums.items()}
    jH = float(first["jH"].mean())
    assert float(right[0]) - jH == pytest.approx(size / (size - 1) * (float(plain[0]) - jH), rel=1e-9)


@pytest.mark.parametrize(("size", "unit"), [*((8, unit) for unit in UNITS), (12, UNITS[0]), (64, UNITS[0])])
def test_two_stated_errors_hold_the_truth_in_most_samples(world, size, unit):
    policy, v, sums = world
    true = inner(exact.entropy_gradient(policy, unit), v)
    values, errors = predictions(sums, size, unit, unbiased=True)
    stated = torch.tensor([widened(float(se), size) for se in errors], dtype=torch.float64)
    z = (values - true) / stated
    assert float((z.abs() < 1.96).double().mean()) > 0.9
    assert float(z.std()) < 1.35
    if size < FEW and unit == "per_sequence":  # as they come, they do not
        assert float(((values - true).abs() < 1.96 * errors).double().mean()) < 0.9


def test_the_factor_is_that_of_the_mean_of_all_others():
    """H - h T with h of the other sequences, by hand."""
    H, T = torch.tensor([3.0, 1.0, 4.0]).double(), torch.tensor([2.0, 1.0, 3.0]).double()
    sums = {"H": H, "T": T}
    h = float(H.sum() / T.sum())
    for index in range(3):
        others = [other for other in range(3) if other != index]
        of_others = float(H[others].sum() / T[others].sum())
        expected = float(H[index]) - of_others * float(T[index])
        found = float(by_others(sums, "per_token_ratio")[index]) * (float(H[index]) - h * float(T[index]))
        assert found == pytest.approx(expected)
    assert by_others(sums, "per_sequence").tolist() == [1.5] * 3
    assert by_others({"H": H[:1], "T": T[:1]}, "per_sequence").tolist() == [1.0]


def test_an_error_as_it_came_is_without_its_widening():
    assert as_it_came({"small_sample": {"widened_by": 1.5}}, 3.0) == 2.0
    for result in ({}, {"small_sample": None}, {"small_sample": {}}):
        assert as_it_came(result, 3.0) == 3.0


def test_quantiles_of_one_degree_of_freedom_are_tangents():
    for share in (0.75, 0.9, 0.975):
        assert t_quantile(share, 1) == pytest.approx(math.tan(math.pi * (share - 0.5)), rel=1e-6)
    assert widening(1) == widening(2) == widening(4) and widening(5) < widening(4)


def test_students_quantiles():
    table = {1: 12.706, 3: 3.182, 7: 2.365, 15: 2.131}
    assert {freedom: round(t_quantile(0.975, freedom), 3) for freedom in table} == table
    assert t_quantile(0.9, 5) == pytest.approx(1.476, abs=1e-3)
    assert widening(16) == widening(500) == 1.0
    assert widening(8) == pytest.approx(3.182 / 1.96, rel=1e-3) and widening(2) == pytest.approx(
        12.706 / 1.96, rel=1e-3
    )
    assert math.isnan(widened(math.nan, 8)) and widened(2.0, 15) > 2.4
    assert widening_of_blocks(8, 500) == pytest.approx(2.365 / 1.96, rel=1e-3)
    assert widening_of_blocks(2, 500) == widening(2) and widening_of_blocks(8, 8) == widening(8)
