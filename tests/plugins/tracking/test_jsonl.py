from __future__ import annotations

import math

from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.tracking.jsonl import Jsonl


def test_one_record_per_finished_step(tmp_path):
    run = RunDirectory(tmp_path)
    session = Jsonl().start(run)
    session.step_finished(run=run, step=0, metrics={"validation/success": 0.5})
    session.step_finished(run=run, step=1, metrics={"train/reward": math.nan, "actor/entropy": 0.25})
    assert run.metrics() == [
        {"step": 0, "validation/success": 0.5},
        {"step": 1, "train/reward": None, "actor/entropy": 0.25},
    ]
