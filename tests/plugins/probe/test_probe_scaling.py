"""The noise model of batch-scaling: hand values, edges, and how often simulated experiments are judged rightly."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch
from uncollapse.plugins.probe.experiments import scaling
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


def test_the_scatter_within_a_size_is_that_of_the_hand_however_large_the_mean_is():
    within = analyse([ScalingRun(16, 1e8 + x, 1.0) for x in (0, 1, 3)] + [ScalingRun(32, 1e8, 1.0)])["fit"][
        "within_sizes"
    ]
    assert within["chi2"] == pytest.approx(14 / 3, rel=1e-6)
    assert within["degrees_of_freedom"] == 2
    assert within["p"] == pytest.approx(math.exp(-7 / 3), rel=1e-6)


def test_the_resolved_change_has_its_hand_value():
    # weights 1/4: 1/2 - (1/4 * 3/2)^2 / (1/4 * 5/4) = 1/20
    fit = analyse([ScalingRun(10, 1.0, 2.0), ScalingRun(20, 1.0, 2.0)])["fit"]
    assert fit["resolved_from"] == pytest.approx(math.sqrt(6 * 20))


def test_a_size_that_weighs_nothing_leaves_no_change_to_resolve():
    found = analyse([ScalingRun(16, 1.0, 1.0), ScalingRun(32, 1.0, 1e15)])
    assert found["fit"]["resolved_from"] is None
    assert found["evidence"].startswith("the noise hides the law: the mean is 1 ± 1; delta AIC ")


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


@pytest.mark.parametrize("larger", [1.125, 0.875, 0.625, 0.375])
def test_a_ratio_at_the_limit_is_not_within_it(monkeypatch, larger):
    monkeypatch.setattr(scaling, "RATIO", 0.125)
    found = analyse([ScalingRun(16, 1.0), ScalingRun(32, larger)])["scaling_analysis"]["B_E_16_to_32"]
    assert not found["suggests_convergence"] and not found["suggests_1_over_B_E_scaling"]


def doubled(value):
    """Of weights 3 and 12: chi2 of inverse_B is 3/2 of the square of the value, that of convergence is 0."""
    return analyse([ScalingRun(B, value, se) for B, se in ((16, 1.0), (32, 0.5)) for _ in range(3)])


def test_a_difference_of_aic_at_the_limit_decides_nothing():
    found = doubled(2.0)
    assert found["fit"]["delta_aic"] == 6.0
    assert found["verdict"] == "inconclusive"
    assert found["evidence"] == (
        "the noise hides the law: the mean is 2 ± 0.26, and these sizes and errors tell the models apart from 2; "
        "delta AIC +6.0 (above 0 for convergence); chi2 0.0 if the mean does not depend on B_E, "
        "6.0 if it is as 1/B_E, with 1 degree(s) of freedom"
    )
    beyond = doubled(2.001)
    assert beyond["verdict"] == "convergence"
    assert beyond["evidence"].startswith("deltaH1 is 2 ± 0.26 at every size; delta AIC +6.0")


def test_an_inverse_law_is_named_with_where_it_begins():
    found = analyse([ScalingRun(16, 4.0, 0.1), ScalingRun(32, 2.0, 0.1)])
    assert found["verdict"] == "inverse_B"
    assert found["evidence"].startswith("deltaH1 falls as 1/B_E from 4 ± 0.089 at B_E = 16, as where")


@pytest.mark.parametrize(
    ("runs", "p", "said"),
    [
        ([(16, 4.0), (16, 5.0), (32, 4.5)], lambda fit: fit["within_sizes"]["p"], "the runs of one size scatter more"),
        ([(16, 4.0), (32, 3.0)], lambda fit: max(fit["convergence"]["p"], fit["inverse_B"]["p"]), "neither model fits"),
    ],
)
def test_a_probability_at_the_limit_is_not_believed(monkeypatch, runs, p, said):
    runs = [ScalingRun(B, value, 0.3) for B, value in runs]
    at = p(analyse(runs)["fit"])
    monkeypatch.setattr(scaling, "REJECTED", at)
    assert said in analyse(runs)["evidence"]
    monkeypatch.setattr(scaling, "REJECTED", at * (1 - 1e-9))
    assert said not in analyse(runs)["evidence"]


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
    assert found["consistent"] is False
    root = analyse([ScalingRun(B, 1.0, 3.0 * B**-0.5) for B in (1000, 4000, 16000)])["se_scaling"]["SE_conditional"]
    assert root["consistent"] is True
    assert max(root["ci95"]) < -0.4


# psi(1/2) = -gamma - 2 ln 2, psi(1) = -gamma, psi'(1/2) = pi^2 / 2, psi'(1) = pi^2 / 6
HALF_GAMMA = 0.5772156649015329 / 2
ONE, TWO = HALF_GAMMA + math.log(2) / 2, HALF_GAMMA
"""What log s is too small by, with one and two degrees of freedom; the weights are 8 / pi^2 and 24 / pi^2."""


def test_the_power_law_of_the_errors_has_its_hand_values():
    def law(*errors):
        return analyse([ScalingRun(B, 1.0, error) for B, error in errors])["se_scaling"]["SE_conditional"]

    wide = math.log(3 / 2)
    slope = (TWO + math.log(0.5) - ONE) / wide
    found = law((1, 7.0), (2, 1.0), (3, 0.5))  # of one prompt nothing is known
    assert found["points"] == 2
    assert found["slope"] == pytest.approx(slope)
    assert found["se"] == pytest.approx(math.pi / math.sqrt(6) / wide)
    assert found["ci95"] == pytest.approx([slope - 1.959964 * found["se"], slope + 1.959964 * found["se"]])
    assert found["at_1"] == pytest.approx(math.exp(ONE - slope * math.log(2)))
    assert found["consistent"] is True
    alike = law((2, 1.0), (2, 1.0), (3, 0.5))
    assert alike["slope"] == pytest.approx(slope)
    assert alike["se"] == pytest.approx(math.pi / math.sqrt(9.6) / wide)
    apart = law((2, math.exp(0.75 * math.pi)), (2, math.exp(-0.75 * math.pi)), (3, 0.5))  # chi2 is 9
    assert apart["slope"] == pytest.approx(slope)
    assert apart["se"] == pytest.approx(3 * alike["se"])


def test_the_power_law_of_the_spread_has_its_hand_values():
    """Spreads of 1 from two runs and from three; of four runs that are all alike there is no logarithm."""
    values = {16: (0.0, math.sqrt(2)), 64: (0.0, 1.0, 2.0), 256: (1.0,) * 4, 1024: (1.0,)}
    runs = [ScalingRun(B, value) for B, several in values.items() for value in several]
    found = analyse(runs)["se_scaling"]["std_deltaH1"]
    assert found["points"] == 2
    assert found["slope"] == pytest.approx(-1 / 4)
    assert found["se"] == pytest.approx(math.pi / math.sqrt(6) / math.log(4))
    assert found["at_1"] == pytest.approx(math.exp(ONE + math.log(16) / 4))


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
