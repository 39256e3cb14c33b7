from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from uncollapse.plugins.tracking import progress
from uncollapse.plugins.tracking.progress import Progress, ProgressSession

EXPERIMENT = SimpleNamespace(trainer=SimpleNamespace(steps=12))
RUN = SimpleNamespace(path=Path("runs/demo"))
METRICS = {
    "train/reward": 1.25,
    "train/success": 0.5,
    "actor/entropy": 0.8125,
    "rollout/in_group_reward_std": 2.0,
    "rollout/filter_kept_ratio": 0.75,
    "actor/kl": 0.001,
    "timing_s/step": 1.0,
}


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def session(**options) -> tuple[ProgressSession, io.StringIO]:
    out = io.StringIO()
    return ProgressSession(Console(file=out, width=200, **options)), out


def test_one_plain_line_per_step_where_there_is_no_terminal(clock):
    display, out = session()
    display.run_started(run=RUN, experiment=EXPERIMENT, step=0)
    display.step_finished(run=RUN, step=0, metrics={"validation/success": 0.375})
    clock[0] = 60.0
    display.step_finished(run=RUN, step=2, metrics=METRICS)
    display.run_finished(run=RUN, status="success", metrics=METRICS)
    first, second, last = out.getvalue().splitlines()
    assert first == "step 0/12  validation 0.375"
    expected = "reward 1.25  success 0.5  entropy 0.812  group std 2  kept 0.75  KL 0.001  0:05:00 left"
    assert second.startswith("step 2/12  ")
    assert set(second.split("  ")[1:]) == {*expected.split("  "), "validation 0.375"}
    assert last == "success: runs/demo"


def test_time_left_counts_from_the_resumed_step(clock):
    display, _ = session()
    display.run_started(run=RUN, experiment=EXPERIMENT, step=10)
    clock[0] = 7.0
    assert display.left(11) == "0:00:07 left"


def test_a_live_line_on_a_terminal(clock):
    display, out = session(force_terminal=True)
    display.run_started(run=RUN, experiment=EXPERIMENT, step=0)
    display.step_finished(run=RUN, step=1, metrics=METRICS)
    display.live.refresh()
    display.run_finished(run=RUN, status="stopped:empty_filter", metrics=METRICS)
    assert "demo  step 1/12" in out.getvalue()
    assert out.getvalue().rstrip().endswith("stopped:empty_filter: runs/demo")
    assert not display.live.is_started


def test_a_run_that_fails_before_its_first_step_is_reported():
    display, out = session()
    display.run_finished(run=RUN, status="failed", metrics={})
    assert out.getvalue() == "failed: runs/demo\n"


def test_the_tracker_starts_a_session():
    assert isinstance(Progress().start(RUN), ProgressSession)
