"""The criteria of sanity-check: what passes, what fails, what is not applicable, and how often noise fails them."""

from __future__ import annotations

import copy
import json
import math

import attrs
import pytest
import torch
from uncollapse.core.files import to_json
from uncollapse.plugins.probe.experiments import checks, criteria

ETA = 2e-6


def result(generator, bias=0.0, true=1e-3, error=2e-4, **changed):
    """One run of a sound probe: prediction and truth of one sample of E are nearly the same number."""
    noise = error * float(torch.randn((), generator=generator, dtype=torch.float64))
    delta = true + bias + noise
    weight = 1 + 0.01 * float(torch.randn((), generator=generator, dtype=torch.float64))
    score = 0.2 * float(torch.randn((), generator=generator, dtype=torch.float64))
    run = {
        "success": True,
        "deltaH1": delta,
        "bars_dot": delta / ETA,
        "learning_rate": ETA,
        "SE_conditional": error,
        "direction": "preconditioned_gradient",
        "update": {"v_norm": 2400.0},
        "variance": {"conditional_E": {"value": delta * (1 + 1e-9), "se": error, "status": "ok"}},
        "truth": [
            {"eta": scale * ETA, "deltaH": scale * (true + noise), "se": scale * error, "ess_fraction": 1 - 0.1 * scale}
            | {"mean_w": weight, "se_mean_w": 0.01}
            for scale in (1, 4, 8)
        ],
        "integrity": {
            "adam_coverage": 1.0,
            "param_hash_before": "aa",
            "param_hash_after": "aa",
            "score_identity": {"value": score, "se": 0.2},
            "shift_canary": {"gap": 0.01, "gap_se": 0.02, "shifted_gap": -6.5, "shifted_gap_se": 0.1},
            "sign_flip": {"deltaH1_negated": -delta},
            "zero_advantage": {"deltaH1": 0.0},
        },
    }
    return {**run, **changed}


def runs(count=15, seed=0, **how):
    generator = torch.Generator().manual_seed(seed)
    return [result(generator, **how) for _ in range(count)]


def verdicts(found):
    return {criterion.name: criterion.passed for criterion in found}


def test_a_sound_probe_passes_every_criterion():
    found = criteria.evaluate(runs())
    assert set(verdicts(found).values()) == {True}
    assert len(found) == len({criterion.name for criterion in found}) == 14
    assert criteria.passed(found)
    assert json.loads(to_json([attrs.asdict(criterion) for criterion in found]))[0]["value"] == 1.0


def test_sound_probes_hardly_ever_fail():
    failed = sum(not criteria.passed(criteria.evaluate(runs(seed=seed))) for seed in range(200))
    assert failed <= 8  # 1 % of the spread, 0.3 % to 0.5 % of prediction against truth


def broken(name):
    """Runs of a probe with one defect."""
    made = copy.deepcopy(runs())
    last, all_of = made[-1], made
    match name:
        case "success_rate":
            made.append({"success": False, "error": "out of memory"})
        case "finite":
            last["SE_conditional"] = math.nan
        case "adam_coverage":
            last["integrity"]["adam_coverage"] = 0.99
        case "step_length":
            last["update"]["v_norm"] = 0.0
        case "unchanged":
            last["integrity"]["param_hash_after"] = "ab"
        case "shift_canary":
            last["integrity"]["shift_canary"] |= {"gap": -6.5, "shifted_gap": 0.01}
        case "score_identity":
            for run in all_of:
                run["integrity"]["score_identity"]["value"] += 0.4  # 2 errors in each, nearly 8 in the mean
        case "mean_weight":
            for run in all_of:
                run["truth"][0]["mean_w"] += 0.02
        case "ess_fraction":
            last["truth"][0]["ess_fraction"] = 0.4
        case "product_identity":
            last["variance"]["conditional_E"]["value"] *= 1 + 1e-5
        case "sign_flip":
            last["integrity"]["sign_flip"]["deltaH1_negated"] *= 0.999
        case "zero_advantage":
            last["integrity"]["zero_advantage"]["deltaH1"] = -1e-9
        case "spread":
            for run in all_of:
                run["SE_conditional"] /= 3
        case "prediction_against_truth":
            for run in all_of:
                for step in run["truth"]:
                    step["deltaH"] = -step["deltaH"]
    return made


@pytest.mark.parametrize("name", [criterion.name for criterion in criteria.evaluate([])])
def test_each_defect_fails_its_criterion(name):
    found = criteria.evaluate(broken(name))
    failed = {criterion.name for criterion in found if criterion.passed is False}
    # a NaN error also fails what divides by it
    assert failed == ({name, "spread", "prediction_against_truth"} if name == "finite" else {name})
    assert not criteria.passed(found)


def test_the_negated_prediction_is_held_against_the_one_of_its_own_route():
    made = runs()
    for run in made:
        by_gradient = run["deltaH1"] * (1 + 1e-4)  # single precision
        run["integrity"] |= {"reverse_mode": {"deltaH1": by_gradient}, "sign_flip": {"deltaH1_negated": -by_gradient}}
    assert verdicts(criteria.evaluate(made))["sign_flip"] is True
    made[0]["integrity"]["reverse_mode"]["deltaH1"] *= 0.99
    assert verdicts(criteria.evaluate(made))["sign_flip"] is False


def test_what_needs_the_proxy_is_not_applicable_under_adamw():
    found = criteria.evaluate([{**run, "direction": "adamw"} for run in broken("sign_flip")])
    assert verdicts(found)["sign_flip"] is None
    assert verdicts(found)["zero_advantage"] is None
    assert "AdamW" in next(criterion for criterion in found if criterion.name == "sign_flip").explanation
    assert criteria.passed(found)


def test_what_compares_runs_is_not_applicable_with_other_update_batches():
    found = verdicts(criteria.evaluate(runs(), fixed_U=False))
    assert [name for name, passed in found.items() if passed is None] == ["spread", "prediction_against_truth"]


def test_what_was_not_measured_neither_passes_nor_fails():
    bare = [{"success": True, "deltaH1": 1e-3, "learning_rate": ETA, "truth": None, "integrity": None}] * 2
    found = criteria.evaluate(bare)
    assert {name for name, passed in verdicts(found).items() if passed is not None} == {"success_rate", "finite"}
    assert criteria.passed(found)


def test_without_a_successful_run_the_check_fails():
    for failed in ([], [{"success": False, "error": "x"}]):
        found = criteria.evaluate(failed)
        assert verdicts(found)["success_rate"] is False
        assert not criteria.passed(found)
        assert criteria.analysis(failed) == {"error": "No successful runs"}


def test_an_estimator_that_met_nan_fails_finite_though_its_value_is_null():
    made = runs()
    made[3]["variance"]["deriv_delta"] = {"value": None, "status": "non_finite"}
    found = checks_by_name(criteria.evaluate(made))["finite"]
    assert found.passed is False and found.value == 1
    assert found.explanation == "NaN or infinite: run 4: variance deriv_delta"


def checks_by_name(found):
    return {criterion.name: criterion for criterion in found}


def test_the_values_are_those_of_the_hand():
    z = checks.prediction_against_truth([(3.0, 0.3), (9.0, 0.9), (5.0, 0.4)], [(1.0, 0.1), (2.0, 1.2), (2.5, 0.1)])
    one = (4.0 - 2.0) / math.sqrt((0.3**2 + 0.4**2) / 4 + 1.2**2)
    other = (9.0 - 1.75) / math.sqrt(0.9**2 + 2 * 0.1**2 / 4)
    assert z.value == pytest.approx(max(one, other))
    assert z.passed is False
    pooled = checks.mean_weight([(1.1, 0.3), (1.5, 0.4)])
    assert pooled.value == pytest.approx(0.3 / 0.25)
    spread = checks.spread([(1.0, 2.0), (3.0, 1.0), (5.0, 1.0)])
    assert spread.value == pytest.approx(math.sqrt(4 / 2))
    # chi-square with 2 degrees of freedom: -2 log(1 - share)
    assert spread.threshold == pytest.approx((math.sqrt(-math.log(0.995)), math.sqrt(-math.log(0.005))))


def test_prediction_and_truth_are_compared_at_the_step_nearest_to_the_learning_rate():
    made = runs(2, error=1e-9)
    for run in made:
        run["truth"] = [{"eta": -ETA, "deltaH": 5.0, "se": 1e-9}, {"eta": 1.5 * ETA, "deltaH": 1.5e-3, "se": 1e-9}]
    assert checks_by_name(criteria.evaluate(made))["prediction_against_truth"].passed


def test_the_prediction_goes_with_the_step_and_its_error_with_the_length_of_it():
    made = [
        {
            "deltaH1": 3.0,
            "SE_conditional": 0.5,
            "learning_rate": 1.0,
            "truth": [{"eta": -2.0, "deltaH": -5.0, "se": 0.2}],
        },
        {
            "deltaH1": 2.0,
            "SE_conditional": 0.25,
            "learning_rate": 2.0,
            "truth": [{"eta": 1.0, "deltaH": 1.5, "se": 0.1}],
        },
        {"deltaH1": 2.0, "SE_conditional": 0.25, "learning_rate": 2.0},  # no truth
        {"learning_rate": 2.0, "truth": [{"eta": 1.0, "deltaH": 1.5, "se": 0.1}]},  # no prediction
    ]
    found = checks_by_name(criteria.evaluate(made))["prediction_against_truth"]
    by_hand = checks.prediction_against_truth([(-6.0, 1.0), (1.0, 0.125)], [(-5.0, 0.2), (1.5, 0.1)])
    assert found == by_hand and found.value is not None


def test_a_step_of_no_length_need_not_have_numbers():
    made = runs(2)
    made[0]["truth"] += [{"eta": 0.0, "deltaH": 0.0, "se": math.nan, "ess_fraction": math.nan}]
    assert checks_by_name(criteria.evaluate(made))["finite"].passed


def test_errors_that_were_widened_for_few_prompts_are_judged_as_they_came():
    """Many runs of few prompts: together their errors are known, and 4 times as large ones would fail the spread."""
    wide = copy.deepcopy(runs())
    for run in wide:
        run["SE_conditional"] *= 4
        for step in run["truth"]:
            step["se"] *= 4
    assert verdicts(criteria.evaluate(wide))["spread"] is False
    for run in wide:
        run["small_sample"] = {"prompts": 4, "widened_by": 4.0}
    plain, found = criteria.evaluate(runs()), criteria.evaluate(wide)
    for name in ("spread", "prediction_against_truth"):
        one, other = (next(c for c in each if c.name == name) for each in (plain, found))
        assert other.value == pytest.approx(one.value) and other.passed


def test_z_is_standard_normal_although_each_run_has_both_from_one_sample():
    generator = torch.Generator().manual_seed(4)
    zs = []
    for _ in range(2000):
        noise_K = torch.randn(8, generator=generator, dtype=torch.float64).tolist()
        same = [(noise, 1.0) for noise in noise_K]
        zs.append(checks.prediction_against_truth(same, same).value)
    z = torch.tensor(zs)
    assert float(z.square().mean()) == pytest.approx(1.0, abs=0.12)
    assert float((z.abs() > 3).double().mean()) < 0.006


def test_a_biased_prediction_is_found_by_many_runs_that_no_single_run_would_find():
    found = [verdicts(criteria.evaluate(runs(40, seed=seed, bias=4e-4))) for seed in range(20)]
    assert sum(one["prediction_against_truth"] is False for one in found) >= 19


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_nan_passes_nothing(wrong):
    assert checks.ess_fraction([0.9, -wrong, 0.8]).passed is False
    assert checks.mean_weight([(wrong, 0.1)]).passed is False
    assert checks.score_identity([(0.0, 0.1), (wrong, 0.1)]).passed is False
    assert checks.product_identity([(wrong, 1.0), (1.0, 1.0)]).passed is False
    assert checks.zero_advantage([wrong], proxy=True).passed is False
    assert checks.spread([(wrong, 0.1), (1.0, 0.1)]).passed is False
    assert checks.prediction_against_truth([(wrong, 1.0)] * 2, [(1.0, 1.0)] * 2).passed is False


def test_without_an_error_any_difference_is_infinitely_many():
    assert checks.mean_weight([(1.0, 0.0)]).value == 0.0
    assert checks.mean_weight([(1.001, 0.0)]).value == math.inf
    assert checks.product_identity([(0.0, 0.0)]).passed
    assert checks.product_identity([(1e-300, 0.0)]).passed is False


def canary(gap, shifted_gap, se=0.001):
    return {"gap": gap, "gap_se": se, "shifted_gap": shifted_gap, "shifted_gap_se": se}


def test_the_canary_is_silent_only_where_every_position_fits_alike():
    nearly = canary(0.02, -0.03)
    assert checks.shift_canary([nearly]).passed is None
    assert "nearly uniform" in checks.shift_canary([nearly]).explanation
    # so few tokens that 0.3 nats are noise
    assert checks.shift_canary([canary(0.3, -0.2, se=0.1)]).passed is None
    # off by one to begin with: one position further is as wrong
    assert checks.shift_canary([nearly, canary(-5.0, -5.2)]).passed is False
    assert checks.shift_canary([canary(-5.2, -5.0)]).passed is False
    assert checks.shift_canary([canary(-0.2, 0.02)]).passed is False
    sound = checks.shift_canary([canary(0.01, -4.0), canary(-0.5, -2.0)])
    assert sound.passed and sound.value == 0.75
    # a policy that repeats what it has read fits the next position too well, which is as telling
    assert checks.shift_canary([canary(0.01, 0.8)]).passed
    assert checks.shift_canary([canary(None, -3.0)]).passed is False


def test_the_statistics_of_the_summary_file():
    made = [
        {"success": True, "deltaH1": 1.0, "SE_conditional": 0.5},
        {"success": True, "deltaH1": -3.0, "SE_conditional": 0.5},
        {"success": True, "deltaH1": math.nan, "SE_conditional": 0.5},
        {"success": False, "error": "x"},
    ]
    assert criteria.analysis(made) == {
        "successful_runs": 3,
        "total_runs": 4,
        "success_rate": 0.75,
        "deltaH1_stats": {
            "mean": -1.0,
            "std": pytest.approx(math.sqrt(8)),
            "min": -3.0,
            "max": 1.0,
            "values": [1.0, -3.0],
        },
        "SE_conditional_stats": {"mean": 0.5, "mean_signal_to_noise": (2 + 6) / 2},
        "relative_error": 0.5,
        "traffic_light": "poor",
    }
    one = criteria.analysis([{"success": True, "deltaH1": 1.0, "SE_conditional": None}])
    assert one["deltaH1_stats"]["std"] is None
    assert one["SE_conditional_stats"] == {"mean": None, "mean_signal_to_noise": None}
    assert one["traffic_light"] is None
    assert "error" in criteria.analysis([{"success": True, "deltaH1": math.nan}])


@pytest.mark.parametrize("unknown", [None, math.nan, math.inf, 0.0, -1.0])
def test_the_statistics_of_errors_are_over_those_that_are_known(unknown):
    made = [{"deltaH1": 1.0, "SE_conditional": 0.25}, {"deltaH1": 3.0, "SE_conditional": unknown}]
    found = criteria.analysis(made)  # a run that does not say whether it succeeded did
    assert found["successful_runs"] == 2
    assert found["SE_conditional_stats"] == {"mean": 0.25, "mean_signal_to_noise": 4.0}
    assert found["relative_error"] == 0.125
    assert found["traffic_light"] == "ok"


def test_a_mean_of_0_has_no_relative_error():
    found = criteria.analysis([{"deltaH1": x, "SE_conditional": 0.25} for x in (1.0, -1.0)])
    assert (found["relative_error"], found["traffic_light"]) == (None, "poor")


@pytest.mark.parametrize(
    ("se", "delta", "light"),
    [
        (0.09, 1.0, "good"),
        (0.09, -1.0, "good"),
        (0.1, 1.0, "ok"),
        (0.2, -1.0, "poor"),
        (0.1, 0.0, "poor"),
        (None, 1.0, None),
        (0.1, None, None),
        (math.nan, 1.0, None),
        (0.1, math.nan, None),
    ],
)
def test_the_traffic_light(se, delta, light):
    assert criteria.traffic_light(se, delta) == light
