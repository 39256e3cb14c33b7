"""A run that is killed at whatever it does to its files ends, once resumed, as if nothing had happened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps

HERE = Path(__file__).parent
PLUGIN = HERE / "killed_plugin.py"
STOPS = "low_validation_success(threshold=1.0, patience=2)"
PASSING = {"started", "ended", "updated", "resumed", "earlier_s", "attempts", "pid", "timings"}
"""Of a status: times, and what tells one attempt from another."""


def experiment(bandit, directory, collapse):
    changed = {
        **bandit,
        "rollout": {**bandit["rollout"], "groups": 2, "max_tokens": 4},
        "validation": {"groups": 2, "every": 1, "environment": {"split": "validation"}},
        "trainer": {
            **bandit["trainer"],
            "steps": 3,
            "save_every": 1,
            "keep": 1,
            "log_rollouts": 2,
            "log_rollouts_every": 1,
        },
        "advantage": "grpo",
        "collapse": ["talker", *collapse],
        "trackers": ["points"],
        "plugins": [str(PLUGIN)],
    }
    file = directory / "experiment.yaml"
    file.write_text(dumps(changed))
    return file


def killed(bandit, directory, collapse, *events):
    """The numbers and names of the events at which a run was killed and resumed, under ``directory``."""
    command = [sys.executable, str(HERE / "killed_script.py"), str(experiment(bandit, directory, collapse))]
    done = subprocess.run(
        [*command, str(directory), *map(str, events)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return [line.split(" ", 1) for line in done.stdout.splitlines() if line[:1].isdigit()]


def untimed(record):
    return {key: value for key, value in record.items() if not key.startswith("timing_s/")}


def points(path):
    """Step -> the tracker's points of it; a step that was told twice was told the same."""
    found = {}
    for line in (path / "points.jsonl").read_text().splitlines():
        point = untimed(json.loads(line))
        assert found.setdefault(point["step"], point) == point
    return found


def content(path):
    """All that a run leaves, but for what depends on the clock."""
    run = RunDirectory.open(path)
    last = run.latest()
    status = {key: value for key, value in run.status().items() if key not in PASSING}
    state = json.loads((last / "state.json").read_text())
    state["metrics"] = untimed(state["metrics"])
    del state["files"]
    optimizer = torch.load(last / "optimizer.pt", weights_only=True)["state"]
    return {
        "files": sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.name != "log.txt"),
        "config": run.read_config(),
        "components": run.manifest()["components"],
        "status": {**status, "metrics": untimed(status["metrics"])},
        "metrics": [untimed(record) for record in run.metrics()],
        "copy": [untimed(json.loads(line)) for line in (last / "metrics.jsonl").read_text().splitlines()],
        "rollouts": {file.name: file.read_text() for file in (path / "rollouts").iterdir()},
        "points": points(path),
        "checkpoint": last.name,
        "state": state,
        "weights": (last / "model" / "model.safetensors").read_bytes(),
        "optimizer": {
            f"{name}.{key}": value.tolist() for name, values in optimizer.items() for key, value in values.items()
        },
    }


def compare(directory, events):
    whole = content(directory / "whole")
    for number, name in events:
        found = content(directory / number)
        for part, expected in whole.items():
            assert found[part] == expected, f"{part} after a kill at event {number}, {name}"
    return whole


@pytest.mark.slow
@pytest.mark.timeout(1800)  # some two minutes of an idle core
def test_a_run_survives_a_kill_at_every_change_of_its_files(bandit, tmp_path):
    events = killed(bandit, tmp_path, [])
    assert len(events) > 100
    whole = compare(tmp_path, events)
    assert [record["step"] for record in whole["metrics"]] == [0, 1, 2, 3]
    assert list(whole["points"]) == [0, 1, 2, 3]
    assert (whole["status"]["status"], whole["status"]["step"]) == ("success", 3)
    assert [(verdict["detector"], verdict["step"]) for verdict in whole["status"]["verdicts"]] == [("talker", 1)]


def events_of_step(directory, step, names):
    """The numbers of the events with these names, from the renaming of this step's checkpoint on."""
    lines = [line.split(" ", 1) for line in (directory / "events").read_text().splitlines()]
    start = next(i for i, (_, name) in enumerate(lines) if name == f"os.rename /checkpoints/step_{step}.tmp")
    return [number for number, name in lines[start + 1 :] if any(word in name for word in names)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_verdict_survives_a_kill_between_checkpoint_and_record(bandit, tmp_path):
    """The detector speaks at step 2 of 3: no run goes on to step 3."""
    killed(bandit, tmp_path, [STOPS], 1)
    numbers = events_of_step(tmp_path, 2, ["step_1", "rollouts", "points", "metrics", "status"])
    whole = compare(tmp_path, killed(bandit, tmp_path, [STOPS], *numbers))
    assert (whole["status"]["status"], whole["status"]["step"]) == ("stopped:low_validation_success", 2)
    assert whole["status"]["verdict"]["step"] == 2
    assert [record["step"] for record in whole["metrics"]] == list(whole["points"]) == [0, 1, 2]
