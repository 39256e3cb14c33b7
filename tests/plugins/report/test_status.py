from __future__ import annotations

import io
import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps
from uncollapse.plugins.report.sweep_status import read_sweep_status, watch

OUTCOMES = {
    "good": "success",
    "bad": "failed regime (low_validation_success)",
    "worse": "failed",
    "live": "running",
    "dead": "killed",
    "cut": "damaged",
    "old": "not started",
    "waiting": "queued",
    "absent": "not started",
    "stopped": "interrupted",
}


@pytest.fixture
def directory(tmp_path):
    """A sweep with a run of every outcome; ``live`` is held while the test runs."""
    runs = {label: RunDirectory(tmp_path / "runs" / label) for label in OUTCOMES}
    for label, run in runs.items():
        if label != "absent":
            RunDirectory.create(run.path, {"seed": 0}, {})
    metrics = {"validation/success": 0.5, "validation/success_se": 0.02, "train/reward": 3.25, "actor/entropy": 0.75}
    for step in range(9):
        runs["good"].append_metrics(step, {})
        if step < 4:
            runs["bad"].append_metrics(step, {})
    runs["good"].set_status("running", step=8, metrics=metrics, host="here")
    runs["good"].set_status("success", timings={"total": 3725.4}, gpu="1xH200")
    verdict = {
        "detector": "low_validation_success",
        "step": 3,
        "reason": "below 0.01 for 5 validations",
        "evidence": {},
    }
    runs["bad"].set_status("stopped:low_validation_success", step=3, verdict=verdict)
    runs["worse"].set_status("failed", error="the disk is full\n  where: here")
    started = (datetime.now(UTC) - timedelta(seconds=90)).isoformat()
    for label in ("live", "dead"):
        runs[label].set_status("running", step=2, started=started, metrics={})
    (runs["cut"].path / "status.json").write_text('{"status": "succ')
    runs["old"].set_status("success", hash="of another configuration")
    runs["stopped"].set_status("interrupted", step=1)
    points = [
        {"label": label, "path": f"runs/{label}", "hash": runs["good"].status()["hash"], "values": {}, "steps": 10}
        for label in runs
    ]
    points[0]["steps"] = 8
    record = {"name": "test", "experiment": {"trainer": {"steps": 10}}, "axes": {}, "points": points}
    (tmp_path / "sweep.yaml").write_text(dumps(record))
    with runs["live"].hold():
        yield tmp_path


def test_every_outcome_is_told_apart_and_counted_once(directory):
    found = read_sweep_status(directory)
    assert {row.label: row.status_text for row in found.rows} == OUTCOMES
    assert found.counts == {
        "success": 1,
        "failed regime (low_validation_success)": 1,
        "failed": 1,
        "running": 1,
        "killed": 1,
        "damaged": 1,
        "not started": 2,
        "queued": 1,
        "interrupted": 1,
    }
    assert found.summary.startswith("10 runs: 1 success, 1 failed regime (low_validation_success), 1 failed")
    assert not found.ended


def test_rows_say_how_far_how_long_and_why(directory):
    rows = {row.label: row for row in read_sweep_status(directory).rows}
    assert rows["good"].cells() == {
        "run": "good",
        "status": "success",
        "step": "8/8",
        "time": "1:02:05",
        "validation success": "0.500 ± 0.020",
        "reward": "3.250",
        "entropy": "0.750",
        "gpu": "1xH200",
        "host": rows["good"].host,
        "directory": "",
        "why": "",
    }
    assert rows["bad"].cells()["step"] == "3/10"
    assert rows["bad"].reason == "below 0.01 for 5 validations"
    assert rows["worse"].reason == "the disk is full"
    assert 90 <= rows["live"].seconds < 150
    assert rows["dead"].reason == "died without a word; run the sweep again to resume it"
    assert "status is damaged" in rows["cut"].reason
    assert rows["old"].reason == "its directory holds a run of another configuration"
    assert (rows["absent"].step, rows["absent"].seconds) == (None, None)


def test_of_an_ended_run_the_records_are_looked_at_and_read_once(directory, monkeypatch):
    file = directory / "runs" / "good" / "metrics.jsonl"
    monkeypatch.setattr(RunDirectory, "read_config", None)
    assert read_sweep_status(directory).rows[0].status_text == "success"
    for damaged in (file.read_bytes()[:-40], file.read_bytes().replace(b'"step": 4', b'"step": "', 1)):
        file.write_bytes(damaged)
        row = read_sweep_status(directory).rows[0]
        assert row.status_text == "damaged"
        assert "run its sweep again" in row.reason
    monkeypatch.setattr(RunDirectory, "metrics", None)  # nothing has changed since
    assert read_sweep_status(directory).rows[0].status_text == "damaged"


def test_plain_data(directory):
    data = json.loads(json.dumps(read_sweep_status(directory).to_dict()))
    assert data["sweep"] == "test"
    assert data["counts"]["killed"] == 1
    assert data["runs"][0]["success"] == 0.5
    assert data["runs"][1]["status"] == "stopped:low_validation_success"
    assert data["runs"][8]["step"] is None


def test_elsewhere_than_on_a_terminal_a_run_is_a_line(directory):
    out = io.StringIO()
    read_sweep_status(directory).print(Console(file=out, width=30))
    head, *lines, last = out.getvalue().splitlines()
    assert head.split("\t")[:3] == ["run", "status", "step"]
    assert [line.split("\t")[0] for line in lines] == list(OUTCOMES)
    assert lines[4].split("\t")[-1] == "died without a word; run the sweep again to resume it"
    assert last.startswith("10 runs: ")


def test_on_a_terminal_it_is_a_table_that_fits(directory):
    out = io.StringIO()
    found = read_sweep_status(directory)
    found.print(Console(file=out, width=160, force_terminal=True, color_system=None))
    assert "0.500 ± 0.020" in out.getvalue()
    out = io.StringIO()
    Console(file=out, width=160, force_terminal=True, color_system=None).print(found.table(height=8))
    lines = out.getvalue().splitlines()
    assert len(lines) <= 8
    assert any(line.startswith("live") for line in lines)  # what runs is shown first
    assert "7 runs more than the terminal has lines; 10 runs: " in out.getvalue()


def test_watching_ends_with_the_last_run(tmp_path):
    runs = [RunDirectory.create(tmp_path / label, {}, {}) for label in "ab"]
    points = [{"label": run.path.name, "hash": "", "values": {}} for run in runs]
    (tmp_path / "sweep.yaml").write_text(dumps({"name": "test", "axes": {}, "points": points}))
    runs[0].set_status("success")

    def finish() -> None:
        runs[1].set_status("interrupted")

    timer = threading.Timer(0.2, finish)
    timer.start()
    with RunDirectory(tmp_path).hold():  # as who runs the sweep does
        watch(tmp_path, Console(file=io.StringIO()), every_s=0.02)
    for terminal in (True, False):
        out = io.StringIO()
        last = watch(tmp_path, Console(file=out, force_terminal=terminal, width=120), every_s=0.02)
        assert last.counts == {"success": 1, "interrupted": 1}
        assert "interrupted" in out.getvalue()
    timer.join()


@pytest.mark.parametrize("terminal", [True, False])
def test_watching_ends_when_nobody_runs_the_sweep(directory, terminal):
    with RunDirectory(directory).hold():
        assert not read_sweep_status(directory).ended
    assert not read_sweep_status(directory).ended  # one run is trained, by whomever
    RunDirectory(directory / "runs" / "live").set_status("interrupted")
    out = io.StringIO()
    last = watch(directory, Console(file=out, force_terminal=terminal, width=250), every_s=0.02)
    assert last.counts["queued"] == 1
    assert "nobody runs the sweep: run it again for the 4 that are left" in out.getvalue()


def test_the_time_of_a_resumed_run_leaves_out_the_time_between(tmp_path):
    run = RunDirectory.create(tmp_path / "a", {}, {})
    points = [{"label": "a", "hash": "", "values": {}}]
    (tmp_path / "sweep.yaml").write_text(dumps({"name": "test", "axes": {}, "points": points}))
    then = datetime.now(UTC) - timedelta(seconds=71)
    times = {"started": then.isoformat(), "updated": (then + timedelta(seconds=9)).isoformat()}
    record = run.status() | times | {"status": "running", "attempts": 1}
    (run.path / "status.json").write_text(json.dumps(record))
    assert read_sweep_status(tmp_path).rows[0].seconds == pytest.approx(9)
    with run.hold():
        run.begin()
        assert 9 <= read_sweep_status(tmp_path).rows[0].seconds < 30


def test_interrupting_leaves_the_table(directory, monkeypatch):
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    out = io.StringIO()
    assert watch(directory, Console(file=out, force_terminal=True, width=120)).counts["running"] == 1
    assert "killed" in out.getvalue()


def test_no_sweep_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"sweep\.yaml"):
        read_sweep_status(tmp_path / "nothing")
