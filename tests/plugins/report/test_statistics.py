from __future__ import annotations

import math
from pathlib import Path

import attrs
import pytest
from uncollapse.plugins.report.data import RunData, collect
from uncollapse.plugins.report.run_status import RunStatus
from uncollapse.plugins.report.statistics import against_first, main_effects

SUCCESS = "validation/success"


def run(value: float | None, se: float | None = None, status: str = "success", **point: str) -> RunData:
    record = {"step": 10, SUCCESS: value}
    if se is not None:
        record[f"{SUCCESS}_se"] = se
    label = "-".join(point.values())
    records = [{"step": 0, SUCCESS: 0.1, f"{SUCCESS}_se": 0.5}, record]
    return RunData(label, Path(label), point, RunStatus(status), collect(records), steps=10)


AXES = {"filter": ["off", "on"], "kl": ["0", "0.01"]}


def test_main_effects_of_a_two_by_two_by_hand():
    runs = [
        run(0.40, 0.03, filter="off", kl="0"),
        run(0.50, 0.04, filter="off", kl="0.01"),
        run(0.70, 0.02, filter="on", kl="0"),
        run(0.60, 0.06, filter="on", kl="0.01"),
    ]
    by_filter, by_kl = main_effects(runs, AXES, SUCCESS)
    # filter: ((.70 - .40) + (.60 - .50)) / 2; SE: sqrt(.03^2 + .04^2 + .02^2 + .06^2) / 2 = sqrt(.0065) / 2
    assert by_filter.difference == pytest.approx(0.20)
    assert by_filter.se == pytest.approx(math.sqrt(0.0065) / 2)
    assert (by_filter.axis, by_filter.value, by_filter.baseline, by_filter.pairs) == ("filter", "on", "off", 2)
    assert (by_filter.verdict, by_filter.se_from) == ("higher", "validation tasks")
    # kl: ((.50 - .40) + (.60 - .70)) / 2 = 0 up to rounding
    assert by_kl.difference == pytest.approx(0.0, abs=1e-12)
    assert by_kl.verdict == "not distinguishable"


def test_points_against_the_first_by_hand():
    runs = [
        run(0.40, 0.03, filter="off", kl="0"),
        run(0.50, 0.04, filter="off", kl="0.01"),
        run(0.20, 0.02, filter="on", kl="0"),
    ]
    near, below = against_first(runs, SUCCESS)
    assert (near.value, near.baseline) == ("filter=off, kl=0.01", "filter=off, kl=0")
    assert near.difference == pytest.approx(0.10)
    assert near.se == pytest.approx(0.05)
    assert below.difference == pytest.approx(-0.20)
    assert below.verdict == "lower"


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [(0.099, "not distinguishable"), (0.101, "higher"), (-0.099, "not distinguishable"), (-0.101, "lower")],
)
def test_two_standard_errors_decide(difference, verdict):
    runs = [run(0.5, 0.03, kl="0"), run(0.5 + difference, 0.04, kl="1")]
    assert against_first(runs, SUCCESS)[0].verdict == verdict


def test_equal_values_without_error_are_not_distinguishable():
    (same,) = against_first([run(0.0, 0.0, kl="0"), run(0.0, 0.0, kl="1")], SUCCESS)
    assert same.verdict == "not distinguishable"


def test_a_stopped_run_is_a_failed_regime_and_not_averaged():
    runs = [
        run(0.40, 0.03, filter="off", kl="0"),
        run(0.50, 0.04, filter="off", kl="0.01"),
        run(0.01, 0.01, status="stopped:low_validation_success", filter="on", kl="0"),
        run(0.60, 0.06, filter="on", kl="0.01"),
    ]
    by_filter, by_kl = main_effects(runs, AXES, SUCCESS)
    assert by_filter.difference == pytest.approx(0.10)
    assert by_filter.pairs == 1
    assert by_filter.left_out == ("on-0: failed regime (low_validation_success)",)
    assert by_kl.difference == pytest.approx(0.10)
    against = {effect.value: effect for effect in against_first(runs, SUCCESS)}
    stopped = against["filter=on, kl=0"]
    assert (stopped.difference, stopped.se, stopped.verdict) == (None, None, "failed regime")


def test_a_value_of_which_one_seed_succeeded_is_no_failed_regime():
    stopped = "stopped:low_validation_success"
    runs = [
        run(0.40, 0.03, kl="0", seed="0"),
        run(0.01, 0.01, status=stopped, kl="0", seed="1"),
        run(0.01, 0.01, status=stopped, kl="1", seed="0"),
        run(0.50, 0.03, kl="1", seed="1"),
        run(0.01, 0.01, status=stopped, kl="2", seed="0"),
        run(0.01, 0.01, status=stopped, kl="2", seed="1"),
    ]
    axes = {"kl": ["0", "1", "2"], "seed": ["0", "1"]}
    assert [effect.verdict for effect in main_effects(runs, axes, SUCCESS)] == ["no pair", "failed regime"]
    against_failed = main_effects(runs, {"kl": ["2", "1"]}, SUCCESS)
    assert [effect.verdict for effect in against_failed] == ["failed regime of the baseline"]


def test_unfinished_and_unmeasured_runs_are_named():
    runs = [run(0.4, 0.03, kl="0"), run(0.5, 0.04, status="running", kl="1"), run(None, kl="2")]
    runs[2] = attrs.evolve(runs[2], logged={"train/success": [(5, 0.3)]})
    running, silent = against_first(runs, SUCCESS)
    assert (running.verdict, running.left_out) == ("not measured", ("1: running",))
    assert (silent.verdict, silent.left_out) == ("not measured", ("2: success",))


def test_without_a_standard_error_nothing_is_claimed():
    (effect,) = against_first([run(0.4, kl="0"), run(0.9, kl="1")], SUCCESS)
    assert effect.verdict == "no standard error"
    assert (effect.se, effect.se_from) == (None, "")


def test_an_error_of_one_of_two_runs_is_none_of_their_difference():
    (effect,) = against_first([run(0.4, 0.03, kl="0"), run(0.9, kl="1")], SUCCESS)
    assert (effect.se, effect.se_from, effect.verdict) == (None, "", "no standard error")


def test_seeds_that_agree_have_an_error_of_0_where_no_other_is_known():
    runs = [run(value, kl=kl, seed=seed) for kl, value in (("0", 0.25), ("1", 0.5)) for seed in ("0", "1")]
    (effect,) = against_first(runs, SUCCESS)
    assert (effect.difference, effect.se, effect.se_from) == (0.25, 0.0, "seeds")
    assert effect.verdict == "higher"


def seeds(values: dict[tuple[str, str], float], se: float) -> list[RunData]:
    return [run(value, se, kl=kl, seed=seed) for (kl, seed), value in values.items()]


def test_seed_to_seed_variation_is_used_where_it_is_larger():
    values = {("0", "0"): 0.40, ("0", "1"): 0.50, ("1", "0"): 0.70, ("1", "1"): 0.60}
    (effect,) = main_effects(seeds(values, se=0.01), {"kl": ["0", "1"], "seed": ["0", "1"]}, SUCCESS)
    # effects within the seeds: .30 and .10; mean .20; std (ddof 1) sqrt(.02); over sqrt(2) = .10
    assert effect.difference == pytest.approx(0.20)
    assert effect.se == pytest.approx(0.10)
    assert effect.se_from == "seeds"
    assert effect.pairs == 2


def test_validation_episodes_are_used_where_seeds_agree_by_chance():
    values = {("0", "0"): 0.40, ("0", "1"): 0.50, ("1", "0"): 0.60, ("1", "1"): 0.70}
    (effect,) = against_first(seeds(values, se=0.05), SUCCESS)
    # seeds: both .20, so their SE is 0; episodes: sqrt(4 * .05^2) / 2 = .05
    assert effect.se == pytest.approx(0.05)
    assert effect.se_from == "validation tasks"
    assert effect.value == "kl=1"


def test_seed_effects_are_averaged_over_the_other_axes_first():
    axes = {"filter": ["off", "on"], "kl": ["0", "1"], "seed": ["0", "1"]}
    gains = {
        ("0", "0"): 0.10,
        ("1", "0"): 0.30,
        ("0", "1"): 0.20,
        ("1", "1"): 0.60,
    }  # (kl, seed) -> effect of the filter
    runs = [
        run(0.1 + (gain if on == "on" else 0), 0.0, filter=on, kl=kl, seed=seed)
        for (kl, seed), gain in gains.items()
        for on in ("off", "on")
    ]
    by_filter = main_effects(runs, axes, SUCCESS)[0]
    # seed 0: .20, seed 1: .40; mean .30; SE sqrt(.02) / sqrt(2) = .10
    assert by_filter.difference == pytest.approx(0.30)
    assert by_filter.se == pytest.approx(0.10)
    assert [effect.axis for effect in main_effects(runs, axes, SUCCESS)] == ["filter", "kl"]


def test_a_union_of_grids_is_compared_where_two_runs_differ_in_one_setting_alone():
    runs = [
        run(0.40, 0.03, kl="0", entropy="0"),
        run(0.50, 0.04, kl="0.01", entropy="0"),
        run(0.20, 0.02, kl="0", entropy="0.1"),
        run(0.10, 0.02, kl="0.01", entropy="0.3"),
    ]
    axes = {"kl": ["0", "0.01"], "entropy": ["0", "0.1", "0.3"]}
    by_kl, small, large = main_effects(runs, axes, SUCCESS)
    assert (by_kl.difference, by_kl.pairs) == (pytest.approx(0.10), 1)
    assert (small.difference, small.pairs) == (pytest.approx(-0.20), 1)
    assert (large.difference, large.pairs) == (pytest.approx(-0.40), 1)
    (nothing,) = main_effects([runs[0], runs[3]], {"kl": ["0", "0.01"]}, SUCCESS)
    assert (nothing.verdict, nothing.pairs, nothing.difference) == ("no pair", 0, None)


def test_values_of_different_steps_of_one_budget_are_not_compared():
    runs = [
        run(0.40, 0.03, kl="0", seed="0"),
        run(0.50, 0.03, kl="0", seed="1"),
        run(None, kl="0.01", seed="0"),  # the last validation was not finite: 0.1 at step 0 is all that is known
        run(0.70, 0.04, kl="0.01", seed="1"),
    ]
    (effect,) = main_effects(runs, {"kl": ["0", "0.01"], "seed": ["0", "1"]}, SUCCESS)
    assert (effect.difference, effect.pairs) == (pytest.approx(0.20), 1)
    assert effect.se == pytest.approx(0.05)
    assert effect.left_out == ("0.01-0: last measured at step 0, its partner at step 10",)
    (alone,) = main_effects(runs[::2], {"kl": ["0", "0.01"]}, SUCCESS)
    assert (alone.difference, alone.verdict) == (None, "no pair")


def test_runs_of_different_budgets_are_compared_at_their_ends():
    short, long = run(0.40, 0.03, **{"trainer.steps": "10"}), run(0.60, 0.04, **{"trainer.steps": "20"})
    long = attrs.evolve(long, steps=20, logged={SUCCESS: [(20, 0.6)], f"{SUCCESS}_se": [(20, 0.04)]})
    (effect,) = main_effects([short, long], {"trainer.steps": ["10", "20"]}, SUCCESS)
    assert (effect.difference, effect.se, effect.verdict) == (pytest.approx(0.20), pytest.approx(0.05), "higher")
