"""The ranking of a sweep: differences run by run, their errors, and what many comparisons do to a verdict."""

from __future__ import annotations

import math
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.plugins.report.data import RunData, SweepData, collect
from uncollapse.plugins.report.metrics import INFORMATION, SUCCESS
from uncollapse.plugins.report.ranking import area, rank, step_seconds
from uncollapse.plugins.report.run_status import RunStatus
from uncollapse.plugins.report.sweep_report import Report
from uncollapse.plugins.report.table import ranking_cells, ranking_note

BASELINE = (0.40, 0.42, 0.44)


def run(remedy: str, seed: int, success: float, status: str = "success", se: float | None = None, **more: float):
    last = {"step": 10, SUCCESS: success, **more}
    if se is not None:
        last[f"{SUCCESS}_se"] = se
    records = [{"step": 0, SUCCESS: 0.2}, last]
    point = {"remedy": remedy, "seed": str(seed)}
    return RunData(f"{remedy}-{seed}", Path(remedy), point, RunStatus(status), collect(records), steps=10)


def sweep(values: dict[str, tuple[float, ...]], **more: float) -> SweepData:
    runs = [run(name, seed, each, **more) for name, column in values.items() for seed, each in enumerate(column)]
    axes = {"remedy": list(values), "seed": sorted({run.seed for run in runs})}
    return SweepData("interventions", Path(), axes, runs, ranked=True)


def estimate(ranking, value, measure="success"):
    return next(row for row in ranking.rows if row.value == value).estimates[measure]


def test_a_difference_is_taken_seed_by_seed_with_students_t():
    found = estimate(rank(sweep({"baseline": BASELINE, "better": (0.50, 0.54, 0.58)})), "better")
    assert found.mean == pytest.approx(0.54)
    # differences .10, .12, .14: mean .12, standard deviation .02, error .02 / sqrt(3)
    assert found.difference == pytest.approx(0.12)
    assert found.se == pytest.approx(0.02 / math.sqrt(3))
    # t = 10.392 with 2 degrees of freedom: p = 1 - t / sqrt(t^2 + 2), which is the closed form for 2
    t = 0.12 / (0.02 / math.sqrt(3))
    assert found.p == pytest.approx(1 - t / math.sqrt(t**2 + 2), abs=1e-9)
    assert (found.p_adjusted, found.verdict) == (found.p, "higher")


def test_more_comparisons_make_it_harder_to_be_told_apart():
    better = (0.50, 0.54, 0.58)
    alone = rank(sweep({"baseline": BASELINE, "better": better}))
    others = {
        f"same {number}": tuple(v + 0.01 * (-1) ** (number + i) for i, v in enumerate(BASELINE)) for number in range(9)
    }
    among = rank(sweep({"baseline": BASELINE, "better": better, **others}))
    assert estimate(alone, "better").p == estimate(among, "better").p
    assert estimate(among, "better").p_adjusted == pytest.approx(10 * estimate(alone, "better").p)
    assert (estimate(alone, "better").verdict, estimate(among, "better").verdict) == ("higher", "not distinguishable")
    assert among.compared == 10


def test_the_validation_tasks_give_the_error_where_seeds_agree_by_chance_or_there_is_one():
    values = {"baseline": (0.4, 0.4), "other": (0.5, 0.5)}
    agreeing = estimate(rank(sweep(values, se=0.03)), "other")
    assert agreeing.se == pytest.approx(math.sqrt(4 * 0.03**2) / 2)
    single = estimate(rank(sweep({"baseline": (0.4,), "other": (0.5,)}, se=0.03)), "other")
    assert single.se == pytest.approx(0.03 * math.sqrt(2))
    # two-sided, normal: ratio 2.357
    assert single.p == pytest.approx(math.erfc(0.1 / (0.03 * math.sqrt(2)) / math.sqrt(2)))
    unknown = estimate(rank(sweep({"baseline": (0.4,), "other": (0.5,)})), "other")
    assert (unknown.se, unknown.p, unknown.verdict) == (None, None, "no standard error")


def test_a_remedy_that_changes_nothing_is_not_distinguishable():
    found = estimate(rank(sweep({"baseline": BASELINE, "idle": BASELINE})), "idle")
    assert (found.difference, found.p, found.verdict) == (0.0, 1.0, "not distinguishable")


def test_what_a_detector_stopped_is_named_and_in_no_mean():
    runs = [run("baseline", seed, value) for seed, value in enumerate(BASELINE)]
    runs += [run("other", 0, 0.1, "stopped:no_signal"), run("other", 1, 0.5), run("other", 2, 0.5)]
    axes = {"remedy": ["baseline", "other"], "seed": ["0", "1", "2"]}
    row = next(row for row in rank(SweepData("s", Path(), axes, runs)).rows if row.value == "other")
    assert (row.pairs, row.left_out) == (2, ("other-0: failed regime (no_signal)",))
    assert row.estimates["success"].difference == pytest.approx((0.08 + 0.06) / 2)


def test_a_remedy_of_which_every_run_failed_comes_last_and_has_no_rank():
    runs = [run("baseline", 0, 0.4), run("broken", 0, 0.9, "failed"), run("worse", 0, 0.3)]
    ranking = rank(SweepData("s", Path(), {"remedy": ["baseline", "broken", "worse"], "seed": ["0"]}, runs))
    assert [row.value for row in ranking.rows] == ["baseline", "worse", "broken"]
    assert estimate(ranking, "broken").verdict == "not measured"
    assert (estimate(ranking, "broken").rank, ranking.compared) == (None, 1)


def test_every_measure_has_a_rank_of_its_own_and_less_time_is_better():
    runs = [
        run("baseline", 0, 0.4, **{"actor/entropy": 1.0, INFORMATION: 2.0, "timing_s/step": 3.0}),
        run("fast", 0, 0.3, **{"actor/entropy": 0.5, INFORMATION: 2.5, "timing_s/step": 2.0}),
    ]
    ranking = rank(SweepData("s", Path(), {"remedy": ["baseline", "fast"], "seed": ["0"]}, runs))
    assert {name: each.rank for name, each in ranking.rows[1].estimates.items()} == {
        "success": 2,
        "area": 2,
        "entropy": 2,
        "information": 1,
        "seconds": 1,
    }
    assert estimate(ranking, "fast", "seconds").difference == pytest.approx(-1.0)


def test_runs_that_were_last_measured_at_different_steps_are_no_pair():
    runs = [run("baseline", 0, 0.4), run("other", 0, 0.9, se=0.01), run("baseline", 1, 0.4), run("other", 1, 0.5)]
    cut = {metric: [each for each in series if each[0] < 10] for metric, series in runs[1].logged.items()}
    runs[1] = attrs.evolve(runs[1], logged=cut)  # its last validation was not finite: the one at step 0 is no final one
    ranking = rank(SweepData("s", Path(), {"remedy": ["baseline", "other"], "seed": ["0", "1"]}, runs))
    row = next(row for row in ranking.rows if row.value == "other")
    assert row.estimates["success"].difference == pytest.approx(0.1)
    assert row.estimates["area"].difference == pytest.approx(0.05)
    assert row.pairs == 1
    assert row.left_out == ("other-0: last measured at step 0, its partner at step 10",)


def test_seeds_alone_are_not_ranked():
    assert rank(SweepData("s", Path(), {"seed": ["0", "1"]}, [run("a", 0, 0.4), run("a", 1, 0.5)])) is None


def test_the_area_is_the_mean_of_the_curve_over_the_steps():
    records = [{"step": 0, SUCCESS: 0.0}, {"step": 10, SUCCESS: 0.4}, {"step": 15, SUCCESS: 0.4}]
    curve = RunData("r", Path(), {}, RunStatus("success"), collect(records))
    assert area(curve) == pytest.approx((10 * 0.2 + 5 * 0.4) / 15)
    assert area(RunData("r", Path(), {}, RunStatus("success"), collect(records[:1]))) is None


def test_the_seconds_of_a_step_are_those_without_validation_and_detectors():
    records = [
        {"step": 0, "timing_s/validation": 9.0, "timing_s/step": 9.0},
        {"step": 1, "timing_s/step": 2.0, "timing_s/detectors": 0.5},
        {"step": 2, "timing_s/step": 5.0, "timing_s/detectors": 0.5, "timing_s/validation": 3.0},
    ]
    assert step_seconds(RunData("r", Path(), {}, RunStatus("success"), collect(records))) == pytest.approx(1.5)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.floats(-0.5, 0.5))
def test_the_same_gain_at_every_seed_is_the_difference_whatever_the_seeds_do(values, gain):
    found = estimate(rank(sweep({"baseline": tuple(values), "other": tuple(v + gain for v in values)})), "other")
    assert found.difference == pytest.approx(gain, abs=1e-9)


def test_the_table_marks_what_is_told_apart_and_the_note_counts_it():
    ranking = rank(sweep({"baseline": BASELINE, "better": (0.50, 0.54, 0.58), "idle": BASELINE}))
    best, *others = ranking_cells(ranking)
    assert best["final success"] == "0.540 (+0.120 ± 0.012) *"
    assert [row["remedy"] for row in others] == ["baseline", "idle"]
    assert others[0]["final success"] == "0.420"
    assert "Told apart from baseline: 1 in final success, " in ranking_note(ranking)


def test_no_uncorrected_verdict_stands_beside_the_ranking(sweep_directory):
    from uncollapse.core.yaml import dumps, loads
    from uncollapse.plugins.report.sweep_report import read_report

    file = sweep_directory / "sweep.yaml"
    plain: Report = read_report(sweep_directory)
    file.write_text(dumps({**loads(file.read_text()), "ranked": True}))
    ranked = read_report(sweep_directory)
    assert {effect.axis for effect in plain.effects} == {"filter.select", "kl.coef"}
    assert {effect.axis for effect in ranked.effects} == {"kl.coef"}
    assert ranked.ranking is not None
    assert ranked.to_dict()["ranking"]["axis"] == "filter.select"
    page = ranked.write().read_text()
    assert "Ranking" in page
    assert "cannot be told apart" in page
    assert "Ranking" not in plain.write().read_text()
