"""What is said of importance weights, by hand: effective sample size, mean, and the statistics of their logarithms."""

import math

import pytest
import torch
from uncollapse.estimators.variance.terms import Terms
from uncollapse.plugins.probe.estimation.measured_change import Measured, Weighting

W = [1.0, 2.0, 4.0, 1.0, 0.5]


def measured(weights, mode="snis", shift=0.0):
    log_weights = torch.tensor(weights, dtype=torch.float64).log() + shift
    used, done = Weighting(mode, clip_c=2.0).apply(log_weights)
    return Measured(0.1, log_weights, used, torch.ones_like(log_weights), done, mode)


def terms(count):
    return Terms(H=torch.ones(count), T=torch.ones(count), prompt=torch.arange(count))


def test_by_hand():
    found = measured(W).weights_of(terms(5))
    assert found["ess"] == pytest.approx(8.5**2 / 22.25)
    assert found["ess_fraction"] == pytest.approx(8.5**2 / 22.25 / 5)
    assert found["mean_w"] == pytest.approx(1.7)
    assert (found["w_min"], found["w_max"]) == pytest.approx((0.5, 4.0))
    logw = found["logw"]
    assert logw["mean"] == pytest.approx(2 * math.log(2) / 5)  # 0, 1, 2, 0 and -1 times log 2
    assert logw["std"] == pytest.approx(math.log(2) * math.sqrt((6 - 4 / 5) / 4))
    assert (logw["min"], logw["max"]) == pytest.approx((-math.log(2), 2 * math.log(2)))
    assert sum(logw["histogram"]["counts"]) == 5
    assert len(logw["histogram"]["counts"]) == 30


def test_the_effective_sample_size_is_of_the_weights_that_are_used():
    found = measured(W, "clip").weights_of(terms(5))  # 1, 2, 2, 1, 0.5
    assert found["ess"] == pytest.approx(6.5**2 / 10.25)
    assert found["w_max"] == pytest.approx(2.0)
    assert found["logw"]["max"] == pytest.approx(2 * math.log(2))
    assert found["clipped_fraction"] == pytest.approx(1 / 5)


@pytest.mark.parametrize("shift", [0.0, 700.0, -700.0])
def test_it_does_not_depend_on_their_scale(shift):
    assert measured(W, shift=shift).weights_of(terms(5))["ess"] == pytest.approx(8.5**2 / 22.25)


def test_a_weight_beyond_all_others_by_more_than_float64_can_hold_is_alone():
    log_weights = torch.tensor([0.0, -2000.0, -1500.0], dtype=torch.float64)
    found = Measured(0.1, log_weights, log_weights, torch.ones(3).double(), {}, "snis").weights_of(terms(3))
    assert found["ess"] == 1.0


def test_two_weights_have_a_spread():
    assert measured([1.0, 2.0]).weights_of(terms(2))["logw"]["std"] == pytest.approx(math.log(2) / math.sqrt(2))


def test_the_error_of_a_change_by_hand():
    """Equal weights and lengths: the change is the mean of h1 - H, and its error the deviation over the root of 4."""
    H, h1 = torch.tensor([1.0, 2.0, 3.0, 4.0]).double(), torch.tensor([1.5, 2.0, 2.0, 5.5]).double()
    nothing = torch.zeros(4, dtype=torch.float64)
    of = Terms(H=H, T=torch.ones(4).double(), prompt=torch.arange(4), entropy_unit="per_sequence")
    for mode in ("snis", "is"):
        value, se = Measured(0.1, nothing, nothing, h1, {}, mode).change(of)
        assert value == pytest.approx((0.5 + 0 - 1 + 1.5) / 4)
        assert se == pytest.approx(math.sqrt((0.25**2 + 0.25**2 + 1.25**2 + 1.25**2) / 3 / 4))


def test_without_normalisation_lengths_enter_where_means_of_tokens_are_asked_for():
    H, h1, T = torch.tensor([[1.0, 2.0, 6.0], [1.5, 2.0, 3.0], [1.0, 2.0, 3.0]]).double()
    log_weights = torch.tensor([1.0, 2.0, 0.5]).double().log()
    of = Measured(0.1, log_weights, log_weights, h1, {}, "is")
    for unit, expected in (
        ("per_sequence", (1.5 + 4 + 1.5 - 9) / 3),
        ("per_seq_token_mean", (1.5 + 2 + 0.5 - 1 - 1 - 2) / 3),
        ("per_token_ratio", (1.5 + 4 + 1.5) / (1 + 4 + 1.5) - 9 / 6),  # a ratio has no form without
    ):
        terms_ = Terms(H=H, T=T, prompt=torch.arange(3), entropy_unit=unit)
        assert of.change(terms_)[0] == pytest.approx(expected), unit


def test_a_weight_at_the_bound_is_not_clipped():
    used, done = Weighting("clip", clip_c=1.0).apply(torch.tensor([0.0, 0.5, -1.0]))
    assert used.tolist() == [0.0, 0.0, -1.0] and done["clipped_fraction"] == pytest.approx(1 / 3)


def test_equal_weights_are_all_effective_and_one_is_one():
    assert measured([3.0] * 7).weights_of(terms(7))["ess_fraction"] == pytest.approx(1)
    assert measured([1e-9, 1.0, 1e-9]).weights_of(terms(3))["ess"] == pytest.approx(1, abs=1e-7)
    alone = measured([2.0]).weights_of(terms(1))
    assert alone["ess"] == pytest.approx(1)
    assert math.isnan(alone["logw"]["std"])
