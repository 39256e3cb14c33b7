from __future__ import annotations

import math
from pathlib import Path

import pytest
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps, loads
from uncollapse.plugins.report.data import RunData, SweepData, collect
from uncollapse.plugins.report.run_status import RunStatus

ENTROPY = "actor/entropy"


def test_a_sweep_is_read_with_its_runs_in_order(sweep_directory):
    sweep = SweepData.read(sweep_directory)
    assert [run.label for run in sweep.runs] == ["nofilter-0", "nofilter-0.01", "top_p-0", "top_p-0.01"]
    assert sweep.axes == {"filter.select": ["nofilter", "top_p(0.9)"], "kl.coef": ["0", "0.01"]}
    last = sweep.runs[-1]
    assert (last.status, last.failed_regime, last.steps) == ("stopped:reward_variance_collapse", True, 6)
    assert last.status_text == "failed regime (reward_variance_collapse)"
    assert last.measured("validation/success") == [(0, 0.30, 0.02), (6, 0.35, 0.03)]
    assert last.series("actor/entropy") == [(1, 1.0), (2, 0.5), (4, 0.25), (5, 0.2), (6, pytest.approx(1 / 6))]


def test_what_a_run_ends_with_is_the_mean_of_the_last_five_steps(sweep_directory):
    run = SweepData.read(sweep_directory).runs[0]
    assert run.tail("train/reward") == pytest.approx((8 + 9 + 10 + 11 + 12) / 5)
    assert run.tail("actor/kl") is None


def test_seconds_of_a_step_by_stage(sweep_directory):
    run = SweepData.read(sweep_directory).runs[0]
    seconds = run.seconds()
    # 12 steps: 10 of 3.0 s and 2 with a validation of 3.6 s
    assert seconds == pytest.approx({"rollout": 1.0, "score": 0.5, "update": 1.0, "validation": 0.1, "other": 0.5})
    assert sum(seconds.values()) == pytest.approx(3.1)


def test_times_of_a_run_follow_from_its_metrics_unless_it_recorded_them(sweep_directory):
    first = SweepData.read(sweep_directory).runs[0]
    # 5 s before the first step, 12 steps of 3 s; 1.2 of the 37.2 s of steps were validations
    assert {key: first.timings[key] for key in ("total", "train", "eval")} == pytest.approx(
        {"total": 41.0, "train": 36.0, "eval": 1.2}
    )
    RunDirectory(first.path).set_status("success", timings={"total": 50.0, "train": 40.0, "wall": 60.0})
    assert SweepData.read(sweep_directory).runs[0].timings == {"total": 50.0, "train": 40.0, "wall": 60.0}


def test_settings_that_differ_are_shown_and_others_are_not(sweep_directory):
    rows = SweepData.read(sweep_directory).differing()
    assert rows[2] == {"run": "filter.select top_p(0.9), kl.coef 0", "filter.select": "top_p(0.9)", "kl.coef": "0"}


def test_runs_that_have_not_started_are_part_of_the_sweep(sweep_directory):
    run = sweep_directory / "nofilter-0"
    run.rename(sweep_directory / "elsewhere")
    first = SweepData.read(sweep_directory).runs[0]
    assert (first.label, first.status, first.steps) == ("nofilter-0", "not started", 0)
    assert (first.seconds(), first.timings, first.settings) == ({}, {}, {})


def test_a_directory_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"has no sweep\.yaml"):
        SweepData.read(tmp_path)


@pytest.mark.parametrize(
    "text", ["points: [", "", "points: 3\nname: x", "name: x\npoints: [{label: a}]", "name: x\npoints: []", "- 1"]
)
def test_a_damaged_record_of_the_sweep_is_refused(tmp_path, text):
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(RequestError, match="record is damaged"):
        SweepData.read(tmp_path)


def test_numbers_that_are_not_finite_are_not_measurements():
    records = [{"step": 1, "x": math.nan}, {"step": 2, "x": 1.0}, {"step": 3, "x": None}, {"step": 4, "x": math.inf}]
    run = RunData(
        "run", Path("run"), {}, RunStatus("success"), collect({"step": r["step"], ENTROPY: r["x"]} for r in records)
    )
    assert run.series(ENTROPY) == [(2, 1.0)]


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("status.json", '{"status": "suc', "status is damaged"),
        ("status.json", "[]", "no record"),
        ("status.json", '{"status": "success", "started": "yesterday"}', "started is 'yesterday'"),
        ("metrics.jsonl", '{"step": 0}\n{"step": 1, "actor/en\n{"step": 2}\n', "record of the metrics is damaged"),
        ("metrics.jsonl", '{"step": 0}\n[1]\n', "it is no object"),
    ],
)
def test_one_damaged_file_costs_one_run(sweep_directory, file, text, reason):
    (sweep_directory / "nofilter-0" / file).write_text(text)
    first, *others = SweepData.read(sweep_directory).runs
    assert (first.status, first.status_text, first.steps, first.logged) == ("damaged", "damaged", 0, {})
    assert reason in first.run_status.reason
    assert [run.steps for run in others] == [12, 12, 6]


@pytest.mark.parametrize("text", ["filter: {select: top_p(0.9)\nkl: [", ""])
def test_a_damaged_configuration_costs_no_numbers_and_settings_are_those_of_the_point(sweep_directory, text):
    (sweep_directory / "nofilter-0" / "config.yaml").write_text(text)
    first = SweepData.read(sweep_directory).runs[0]
    assert (first.status, first.steps) == ("success", 12)
    assert first.settings == {"filter.select": "nofilter", "kl.coef": "0"}


def test_runs_may_be_anywhere(sweep_directory):
    inside = sweep_directory / "nested" / "sweep"
    inside.mkdir(parents=True)
    record = loads((sweep_directory / "sweep.yaml").read_text())
    for point in record["points"]:
        point["path"] = f"../../{point['label']}"
    (inside / "sweep.yaml").write_text(dumps(record))
    assert [run.steps for run in SweepData.read(inside).runs] == [12, 12, 12, 6]
