"""The noise model of batch-scaling: hand values, edges, and how often simulated experiments are judged rightly."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch
from uncollapse.plugins.probe.experiments.scaling import ScalingRun, analyse, chi2_survival

SIZES = (16, 32, 64)
BY_BATCH_SIZE = {"successful_runs", "mean_deltaH1", "std_deltaH1", "delta_values", "mean_SE_conditional"}
SCALING = {"observed_ratio", "expected_if_1_over_B_E", "suggests_convergence", "suggests_1_over_B_E_scaling"}


def experiment(generator, mean, runs=4, shape=lambda B: 1.0, sizes=SIZES, tails=1.5):
    """Runs whose units are independent, symmetric and heavier in the tails than normal ones, with sd about 1."""
    made = []
    for B in sizes:
        for _ in range(runs):
            normal = torch.randn(B, generator=generator, dtype=torch.float64)
            unit = normal.abs() ** tails * normal.sign() / 1.26 + mean
            made.append(ScalingRun(B, float(unit.mean()) * shape(B), float(unit.std()) / math.sqrt(B) * shape(B)))
    return made


def verdicts(count=200, **how):
    generator = torch.Generator().manual_seed(20)
    return Counter(analyse(experiment(generator, **how))["verdict"] for _ in range(count))


@pytest.mark.parametrize(
    ("chi2", "freedom", "p"),
    [
        (0.0, 1, 1.0),
        (3.841459, 1, 0.05),
        (6.634897, 1, 0.01),
        (5.991465, 2, 0.05),
        (9.0, 2, math.exp(-4.5)),
        (7.0, 0, 1),
    ],
)
def test_the_survival_of_chi_square_is_that_of_the_tables(chi2, freedom, p):
    assert chi2_survival(chi2, freedom) == pytest.approx(p, rel=1e-5)


def test_the_fits_have_their_hand_values():
    # variances of the means: 4 / 2 = 2 and 1 / 1 = 1, so weights 1/2 and 1
    fit = analyse([ScalingRun(10, 3.0, 2.0), ScalingRun(10, 5.0, 2.0), ScalingRun(20, 1.0, 1.0)])["fit"]
    constant, inverse = fit["convergence"], fit["inverse_B"]
    assert constant["c"] == pytest.approx((0.5 * 4 + 1) / 1.5)
    assert constant["se"] == pytest.approx(1 / math.sqrt(1.5))
    assert constant["chi2"] == pytest.approx(0.5 * 2**2 + 1 * 1**2)
    assert inverse["c"] == pytest.approx((0.5 * 4 + 1 * 0.5 * 1) / (0.5 + 0.25))
    assert inverse["se"] == pytest.approx(1 / math.sqrt(0.75))
    assert inverse["chi2"] == pytest.approx(0.5 * (4 - 10 / 3) ** 2 + (1 - 5 / 3) ** 2)
    assert constant["degrees_of_freedom"] == inverse["degrees_of_freedom"] == 1
    assert constant["AIC"] == pytest.approx(constant["chi2"] + 2)
    assert fit["delta_aic"] == pytest.approx(inverse["chi2"] - constant["chi2"])
    assert fit["within_sizes"] == {
        "chi2": pytest.approx(2 / 4),
        "degrees_of_freedom": 1,
        "p": pytest.approx(chi2_survival(0.5, 1)),
    }


def test_the_resolved_change_is_the_one_for_which_the_models_differ_decisively():
    errors = {16: 0.3, 64: 0.2, 256: 0.05}
    least = analyse([ScalingRun(B, 0.0, se) for B, se in errors.items()])["fit"]["resolved_from"]
    fit = analyse([ScalingRun(B, least, se) for B, se in errors.items()])["fit"]
    assert fit["delta_aic"] == pytest.approx(6.0)
    fit = analyse([ScalingRun(B, 2 * least, se) for B, se in errors.items()])["fit"]
    assert fit["delta_aic"] == pytest.approx(24.0)


def test_the_keys_and_values_of_the_summary_file():
    found = analyse([ScalingRun(16, 1.0, 0.2), ScalingRun(32, 0.5, 0.1), ScalingRun(16, 2.0, 0.4)])
    assert set(found["by_batch_size"]) == {"16", "32"}
    assert set(found["by_batch_size"]["16"]) >= BY_BATCH_SIZE
    small, large = found["by_batch_size"]["16"], found["by_batch_size"]["32"]
    assert (small["successful_runs"], large["successful_runs"], found["total_successful_runs"]) == (2, 1, 3)
    assert small["delta_values"] == [1.0, 2.0]
    assert small["mean_deltaH1"] == 1.5
    assert small["std_deltaH1"] == pytest.approx(math.sqrt(0.5))
    assert large["std_deltaH1"] is None
    assert small["mean_SE_conditional"] == pytest.approx(0.3)
    ratio = found["scaling_analysis"]["B_E_16_to_32"]
    assert set(ratio) == SCALING
    assert ratio["observed_ratio"] == pytest.approx(1 / 3)
    assert ratio["expected_if_1_over_B_E"] == 0.5
    assert not ratio["suggests_convergence"] and not ratio["suggests_1_over_B_E_scaling"]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("larger", "convergence", "inverse"), [(1.05, True, False), (0.55, False, True), (0.75, False, False)]
)
def test_the_ratios_suggest_what_is_within_a_tenth(larger, convergence, inverse):
    found = analyse([ScalingRun(16, 1.0), ScalingRun(32, larger)])["scaling_analysis"]["B_E_16_to_32"]
    assert (found["suggests_convergence"], found["suggests_1_over_B_E_scaling"]) == (convergence, inverse)


def test_the_order_of_the_runs_and_the_sign_of_the_change_do_not_matter():
    runs = experiment(torch.Generator().manual_seed(1), 1.5)
    found = analyse(runs)
    assert analyse(runs[::-1])["fit"]["delta_aic"] == pytest.approx(found["fit"]["delta_aic"])
    flipped = analyse([ScalingRun(run.B_E, -run.deltaH1, run.SE_conditional) for run in runs])
    assert flipped["verdict"] == found["verdict"] == "convergence"
    assert flipped["fit"]["delta_aic"] == pytest.approx(found["fit"]["delta_aic"])


def test_units_do_not_matter():
    runs = experiment(torch.Generator().manual_seed(1), 1.5)
    scaled = analyse([ScalingRun(run.B_E, 1e-9 * run.deltaH1, 1e-9 * run.SE_conditional) for run in runs])
    assert scaled["fit"]["delta_aic"] == pytest.approx(analyse(runs)["fit"]["delta_aic"])
    assert scaled["verdict"] == "convergence"


def test_correct_code_converges():
    found = verdicts(mean=2.0)
    assert found["inverse_B"] == 0
    assert found["convergence"] >= 190


def test_an_injected_division_by_the_batch_size_is_found():
    found = verdicts(mean=2.0, shape=lambda B: 16 / B)
    assert found["convergence"] == 0
    assert found["inverse_B"] >= 190


@pytest.mark.parametrize("tails", [1.0, 1.5])
def test_noise_is_inconclusive(tails):
    assert verdicts(mean=0.0, tails=tails)["inconclusive"] >= 190


def test_a_weak_signal_is_hardly_ever_given_the_wrong_verdict():
    assert verdicts(mean=0.2)["inverse_B"] <= 4
    assert verdicts(mean=0.2, shape=lambda B: 16 / B)["convergence"] <= 4


@pytest.mark.parametrize("law", [lambda B: B / 16, lambda B: math.sqrt(16 / B)])
def test_a_law_that_is_neither_is_not_forced_into_one(law):
    found = [analyse([ScalingRun(B, law(B), 0.01) for B in SIZES])]
    assert found[0]["verdict"] == "inconclusive"
    assert "neither model fits" in found[0]["evidence"]
    assert abs(found[0]["fit"]["delta_aic"]) > 6


def test_standard_errors_that_are_too_small_decide_nothing():
    runs = [
        ScalingRun(run.B_E, run.deltaH1, run.SE_conditional / 4)
        for run in experiment(torch.Generator().manual_seed(3), 2.0)
    ]
    found = analyse(runs)
    assert found["verdict"] == "inconclusive"
    assert "scatter more than their standard errors" in found["evidence"]


@pytest.mark.parametrize("unknown", [None, math.nan, 0.0, math.inf])
def test_unknown_standard_errors_weigh_nothing(unknown):
    without = analyse([ScalingRun(16, 1.0, unknown), ScalingRun(32, 1.1, unknown)])
    assert without["fit"] is None and without["verdict"] == "inconclusive"
    assert "0 of them with a standard error" in without["evidence"]
    assert without["by_batch_size"]["16"]["mean_SE_conditional"] is None
    assert without["se_scaling"] == {"SE_conditional": None, "std_deltaH1": None}
    some = analyse([ScalingRun(16, 1.0, unknown), ScalingRun(16, 3.0, 0.5), ScalingRun(32, 2.0, 0.5)])["fit"]
    assert some["convergence"]["c"] == pytest.approx(2.0)
    assert some["convergence"]["se"] == pytest.approx(math.sqrt(1 / (2 / 0.25 + 1 / 0.25)))


def test_a_prediction_that_is_not_a_number_is_counted_and_left_out():
    found = analyse([ScalingRun(16, math.nan, 0.1), ScalingRun(16, 2.0, 0.1), ScalingRun(32, math.inf, 0.1)])
    assert found["by_batch_size"]["16"] == {
        "successful_runs": 2,
        "mean_deltaH1": 2.0,
        "std_deltaH1": None,
        "delta_values": [2.0],
        "mean_SE_conditional": pytest.approx(0.1),
        "SE_of_mean": pytest.approx(0.1),
        "non_finite_runs": 1,
        "runs_with_SE": 2,
    }
    assert found["by_batch_size"]["32"]["mean_deltaH1"] is None
    assert found["scaling_analysis"] == {} and found["verdict"] == "inconclusive"
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("runs", [[], [ScalingRun(16, 1.0, 0.1)], [ScalingRun(16, 1.0, 0.1), ScalingRun(16, 1.2, 0.1)]])
def test_one_size_is_inconclusive(runs):
    found = analyse(runs)
    assert found["verdict"] == "inconclusive" and "two are needed" in found["evidence"]
    assert found["fit"] is None and found["scaling_analysis"] == {}
    assert found["total_successful_runs"] == len(runs)


def test_a_reference_mean_of_0_has_no_ratios():
    found = analyse([ScalingRun(16, 0.0, 0.1), ScalingRun(32, 0.01, 0.1)])
    assert found["scaling_analysis"] == {}
    assert found["verdict"] == "inconclusive"


def test_an_exact_power_law_has_its_slope():
    found = analyse([ScalingRun(B, 1.0, 3.0 * B**-0.7) for B in (1000, 4000, 16000)])["se_scaling"]["SE_conditional"]
    assert found["slope"] == pytest.approx(-0.7, abs=1e-3)
    assert found["at_1"] == pytest.approx(3.0, rel=0.01)
    assert found["expected"] == -0.5 and found["points"] == 3
    assert not found["consistent"]


def test_the_interval_of_the_slope_holds_a_half_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(7)
    found = [analyse(experiment(generator, 0.0, tails=1.0))["se_scaling"] for _ in range(300)]
    for what, within in (("SE_conditional", 0.03), ("std_deltaH1", 0.1)):
        held = sum(one[what]["consistent"] for one in found)
        assert 0.91 * 300 <= held <= 0.99 * 300
        assert sum(one[what]["slope"] for one in found) / 300 == pytest.approx(-0.5, abs=within)


def test_an_error_that_does_not_fall_with_the_root_is_found():
    generator = torch.Generator().manual_seed(7)
    found = analyse(experiment(generator, 2.0, shape=lambda B: 16 / B))["se_scaling"]["SE_conditional"]
    assert found["slope"] == pytest.approx(-1.5, abs=0.2)
    assert not found["consistent"]


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_numbers_that_leave_the_range_of_floats_decide_nothing(size):
    found = analyse([ScalingRun(B, size * k, size) for B in SIZES for k in (3.0, 4.0)])
    assert found["verdict"] == "inconclusive"
