"""A status with a value that no run writes: status and report call one run damaged, and a sweep begins it anew."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from sweep_help import LABELS, Launcher, sweep
from uncollapse.core.errors import RunError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.report.sweep_report import read_report
from uncollapse.plugins.report.sweep_status import read_sweep_status
from uncollapse.plugins.sweeps import run as running


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("metrics", '{"validation/success": "x"}'),
        ("metrics", '{"train/reward": [1]}'),
        ("metrics", '{"train/reward": 1' + "0" * 400 + "}"),
        ("timings", '{"total": "x"}'),
        ("timings", '{"wall": null}'),
        ("timings", '{"total": 1e300}'),
        ("timings", '{"total": NaN}'),
        ("verdicts", "[1]"),
        ("verdicts", '[{"evidence": 5}]'),
        ("verdict", '{"reason": 5}'),
        ("earlier_s", "Infinity"),
        ("earlier_s", "NaN"),
        ("started", '"2020-01-01T00:00:00"'),
        ("ended", '"yesterday"'),
    ],
)
def test_an_odd_value_is_the_damage_of_one_run(tmp_path, monkeypatch, key, text):
    monkeypatch.setattr(running, "WAIT_S", 0.05)
    sweep().run(tmp_path, Launcher())
    run = RunDirectory(tmp_path / LABELS[0])
    record = json.loads(run.status_file.read_text())
    run.status_file.write_text(json.dumps({**record, key: 0}).replace(f'"{key}": 0', f'"{key}": {text}'))
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=300)
        now, report = read_sweep_status(tmp_path), read_report(tmp_path)
        now.print(console)
        report.print(console)
        assert now.counts == {"damaged": 1, "success": 3}
        assert [row["status"] for row in report.to_dict()["runs"]] == ["damaged", "success", "success", "success"]
    launcher = Launcher()
    assert sweep().run(tmp_path, launcher).exit_code == 0
    assert launcher.ran() == [LABELS[0]]
    assert read_sweep_status(tmp_path).counts == {"success": 4}


def test_a_clock_that_was_set_back_gives_no_negative_time(tmp_path):
    sweep().run(tmp_path, Launcher())
    run = RunDirectory(tmp_path / LABELS[0])
    record = json.loads(run.status_file.read_text())
    timings = {"started": "2099-01-01T00:00:00+00:00", "timings": {}}
    run.status_file.write_text(json.dumps({**record, **timings}))
    assert read_sweep_status(tmp_path).rows[0].seconds == 0


def test_a_record_of_metrics_holds_numbers_that_fit(tmp_path):
    run = RunDirectory(tmp_path)
    run.metrics_file.write_text('{"step": 1, "timing_s/total": 1' + "0" * 400 + "}\n")
    with pytest.raises(RunError, match="timing_s/total is no number"):
        run.metrics()
