"""The summary logs: the fields of the scripts' lines, and every run counted once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sweep_help import BASE, LABELS, Launcher, sweep
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.sweeps import summary
from uncollapse.plugins.sweeps.layout import Layout
from uncollapse.plugins.sweeps.sweep import Sweep, load

TIMED = {
    "status": "success",
    "gpu": "1xH100",
    "timings": {
        "train": 12.345,
        "eval": 3.0,
        "collapse": 1.5,
        "first_turn": 0.5,
        "multi_turn": 1.0,
        "total": 20,
        "wall": 21.6,
    },
}
KL_FIELDS = ["kl", "filter", "include_zero"]
TIMES = ["train_time", "eval_time", "total_time", "wall_time", "gpu", "status"]


def fields(line: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in line.split(" | "))


def line_of(name: str, tmp_path: Path, label: str, status=TIMED, **options) -> str:
    (point,) = (p for p in load(name, **options).prepared(tmp_path) if p.label == label)
    return summary.line(point.place, status)


@pytest.mark.parametrize(
    ("name", "label", "options", "expected"),
    [
        ("top-p", "095", {}, {"value": "0.95", "include_zero": "False", "filter_value": "0.95"}),
        ("top-p", "10", {}, {"value": "1.0", "include_zero": "False", "filter_value": "1.0"}),
        ("top-p", "nofilter", {}, {"value": "nofilter", "include_zero": "True", "filter_value": "1.0"}),
        ("kl", "001", {}, {"kl": "0.01", "filter": "nofilter", "include_zero": "True"}),
        (
            *("kl", "0", {"rollout_filter_include_zero": False}),
            {"kl": "0", "filter": "filter_zero", "include_zero": "False"},
        ),
        ("entropy", "0003", {}, {"entropy": "0.003", "filter": "nofilter", "include_zero": "True"}),
    ],
)
def test_the_line_of_an_intervention_sweep(tmp_path, name, label, options, expected):
    found = fields(line_of(name, tmp_path, label, **options))
    times = {"train_time": "12.35s", "eval_time": "3.00s", "total_time": "20.00s", "wall_time": "22s"}
    outcome = {**times, "gpu": "1xH100", "status": "success"}
    assert found == {**expected, **outcome}
    assert list(found) == [*expected, *outcome]


def test_the_line_of_a_smoke_test(tmp_path):
    label = "g4-smoke-ppo-sokoban-ta-topk100-kl0003-ent001-low_var_kl-ftmt"
    line = line_of("smoke", tmp_path, label, groups="4", rollout_filter_strategy="top_k")
    name, rest = line.split(" | ", 1)
    assert name == label
    assert rest == (
        "filter=8 | kl=0.003 | entropy=0.01 | collapse=first:true,multi:true,samples:64 | train_time=12.35s | "
        "eval_time=3.00s | collapse_time=1.50s | collapse_first_time=0.50s | collapse_multi_time=1.00s | "
        "total_time=20.00s | wall_time=22s | gpu=1xH100 | status=success"
    )
    for tag, said in (
        ("ft", "first:true,multi:false"),
        ("mt", "first:false,multi:true"),
        ("nocd", "first:false,multi"),
    ):
        label = f"g3-smoke-ppo-sokoban-topk40-kl0-ent0-kl-{tag}"
        assert f"collapse={said}" in line_of("smoke", tmp_path, label, groups="3", kl_type="kl", collapse=tag)


def test_what_was_not_measured_is_not_available(tmp_path):
    found = fields(line_of("kl", tmp_path, "0", {"status": "stopped:low_validation_success", "timings": {"eval": 1}}))
    assert {key: found[key] for key in TIMES} == {
        "train_time": "N/As",
        "eval_time": "1.00s",
        "total_time": "N/As",
        "wall_time": "N/As",
        "gpu": "N/A",
        "status": "stopped:low_validation_success",
    }
    assert fields(line_of("kl", tmp_path, "0", {}))["status"] == "not started"


def test_a_failed_run_shows_the_end_of_its_log(tmp_path):
    (point,) = load("kl", kl_values="0").prepared(tmp_path)
    failed = {"status": "failed"}
    assert summary.line(point.place, failed).endswith("status=fail\n  error: no log")
    point.place.run.mkdir(parents=True)
    (point.place.run / "log.txt").write_text("")
    assert summary.line(point.place, failed).endswith("status=fail\n  error: the log is empty")
    (point.place.run / "log.txt").write_bytes(b"x" * 9000 + b"\nTraceback\n  \xff at line 3\nout of memory  \n")
    assert summary.line(point.place, failed).endswith("status=fail\n  error: \ufffd at line 3 / out of memory")


def test_the_log_of_a_sweep_line_by_line(tmp_path):
    layout = Layout(name="run-$label", summary="all.log", line="$name | kl=$kl | status=$status")
    options = {"name": "test", "layout": layout}
    cases = [{"label": label, "overrides": {"kl.coef": float(label)}, "values": {"kl": label}} for label in "0123"]
    made = make(cases, **options)

    def log():
        return (tmp_path / "all.log").read_text().splitlines()

    def fail(job):
        (tmp_path / job.name / "log.txt").write_text("first\nsecond\nlast\n")

    outcomes = {"1": "failed", "2": "stopped:empty_filter", "3": "interrupted"}
    made.run(tmp_path, Launcher(fail, **outcomes))
    ended = [
        "run-0 | kl=0 | status=success",
        "run-1 | kl=1 | status=fail",
        "  error: second / last",
        "run-2 | kl=2 | status=stopped:empty_filter",
        "run-3 | kl=3 | status=interrupted",
    ]
    counts = "success: 1 | stopped: 1 | fail: 1 | interrupted: 1 | total: 4"
    first = ["Sweep: 4 of 4 runs", *ended, "Summary", *ended, counts]
    assert log() == first
    made.run(tmp_path, Launcher())
    again = [f"run-{label} | kl={label} | status=success" for label in "0123"]
    skipped = ["Sweep resumed: 3 of 4 runs", "Skipping: run-0 (already success)"]
    assert log()[len(first) :] == (
        [*skipped, *again[1:], "Summary", *again, "success: 4 | stopped: 0 | fail: 0 | total: 4"]
    )


def make(cases, **options) -> Sweep:
    from uncollapse.plugins.sweeps.points import Case

    return Sweep(BASE, cases=[Case(**case) for case in cases], **options)


def test_each_run_is_counted_once_however_often_it_was_tried(tmp_path):
    from uncollapse.plugins.sweeps.run import Options

    made = sweep(layout=Layout(summary="all.log"))
    launcher = Launcher(**{LABELS[0]: ["failed", "failed", "success"], LABELS[1]: ["failed"] * 3})
    made.run(tmp_path, launcher, Options(retries=2))
    assert launcher.ran() == [*LABELS, *LABELS[:2], *LABELS[:2]]
    lines = (tmp_path / "all.log").read_text().splitlines()
    assert lines[-1] == "success: 3 | stopped: 0 | fail: 1 | total: 4"
    assert len([line for line in lines if line.startswith(f"{LABELS[0]} |")]) == 2  # as it ended, and in the summary


def test_counts():
    statuses = ["success", "stopped:a", "stopped:b", "failed", "running", None]
    assert summary.counts([{"status": status} if status else {} for status in statuses]) == (
        "success: 1 | stopped: 2 | fail: 1 | running: 1 | not started: 1 | total: 6"
    )


def test_the_wrapper_writes_one_summary_per_kl_estimate(tmp_path):
    load("smoke-all", collapse="nocd").run(tmp_path, Launcher())
    logs = tmp_path / "logs" / "smoke_test_top_p"
    for kl_type, runs in (("kl", 48), ("mse", 48), ("low_var_kl", 68)):
        text = (logs / f"smoke_test_results_3B_{kl_type}_nocd.log").read_text()
        assert text.splitlines()[-1] == f"success: {runs} | stopped: 0 | fail: 0 | total: {runs}"
        assert len(re.findall(r"status=success", text)) == 2 * runs
        assert set(re.findall(r"-(kl|mse|low_var_kl)-nocd \|", text)) == {kl_type}


@pytest.mark.parametrize(("name", "options"), [("kl", {"kl_values": "0.01"}), ("smoke", {"groups": "3"})])
def test_lines_of_two_seeds_differ_and_those_of_one_are_as_ever(tmp_path, name, options):
    made = load(name, **options)
    plain = [summary.line(point.place, {}) for point in made.prepared(tmp_path)]
    seeded = [summary.line(point.place, {}) for point in made.changed(axes={"seed": [0, 1]}).prepared(tmp_path)]
    assert len(set(seeded)) == len(seeded) == 2 * len(plain)
    first = seeded[0].split(" | ")
    assert first.pop(first.index("seed=0")) == "seed=0"
    assert " | ".join(first) == plain[0]


def test_a_summary_log_that_cannot_be_written_starts_nothing(tmp_path):
    (tmp_path / "all.log").mkdir()
    launcher = Launcher()
    with pytest.raises(RequestError, match="the summary log cannot be written: a directory is in its place"):
        sweep(layout=Layout(summary="all.log")).run(tmp_path, launcher)
    assert launcher.jobs == []


# --- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"run": "$labels"}, r"there is no \$labels\n  where: layout.run: \$labels\n  fix:   use .*\$label"),
        ({"name": "$foo"}, r"there is no \$foo"),
        ({"summary": "x_$name_y.log"}, r"there is no \$name_y"),
        ({"line": "$name | state=$state"}, r"there is no \$state"),
        ({"log": "cost: 5 $ each"}, r"cannot be read"),
        ({"run": ""}, "needs a run directory"),
        ({"run": "../$label"}, "leaves the root of the sweep"),
        ({"log": "/tmp/$label"}, "leaves the root of the sweep"),
        ({"checkpoints": "a/../../$label"}, "leaves the root of the sweep"),
        ({"home": ".."}, "leaves the root of the sweep"),
        ({"run": "x" * 300 + "$label"}, "bytes"),
        ({"run": "a\n$label"}, "cannot be printed"),
        ({"run": "all"}, f"{LABELS[0]} and {LABELS[1]} have one directory"),
        ({"run": "."}, "the sweep and .* have one directory"),
    ],
)
def test_layouts_that_cannot_be(tmp_path, layout, message):
    launcher = Launcher()
    with pytest.raises(RequestError, match=message):
        sweep(layout=Layout(**layout)).run(tmp_path / "root", launcher)
    assert launcher.jobs == []
    assert not (tmp_path / "root").exists()


def test_layouts_may_use_axes_and_parameters(tmp_path):
    layout = Layout(run="$environment/$model/$steps/$label", name="$seed", home="$size", line="$$5 $name $filter_value")
    made = Sweep({**BASE, "filter": {"select": "top_p(0.9)"}}, {"seed": [3]}, layout=layout)
    (point,) = made.prepared(tmp_path)
    assert point.place.run == tmp_path / "sokoban" / "model" / "3" / "seed_3"
    assert (point.place.name, point.place.home) == ("3", tmp_path / "model")
    assert summary.line(point.place, {}) == "$5 3 0.9"


def test_a_model_that_varies_does_not_lose_the_report_its_runs(tmp_path):
    import attrs
    from uncollapse.plugins.report.data import SweepData

    varied = attrs.evolve(load("kl", kl_values="0"), axes={"model.path": ["a/X-1B", "b/Y-7B"]})
    points = varied.prepared(tmp_path)
    result = varied.run(tmp_path, Launcher())
    assert [point.place.run for point in points] == (
        [
            tmp_path / "logs" / "kl_sweep_X-1B" / "nofilter" / "0__model.path_a_X-1B",
            tmp_path / "logs" / "kl_sweep_Y-7B" / "nofilter" / "0__model.path_b_Y-7B",
        ]
    )
    assert [run.status for run in SweepData.read(result.home).runs] == ["success", "success"]
    assert all(RunDirectory(point.place.run).status()["status"] == "success" for point in points)
