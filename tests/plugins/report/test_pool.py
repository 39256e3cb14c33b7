"""``uncollapse report`` pools the runs of several directories."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps

SUCCESS = "validation/success"


def trained(path: Path, seed: int, environment: str = "sokoban") -> Path:
    """A run of 8 steps whose entropy goes against the success that follows."""
    chance = random.Random(seed)
    directory = RunDirectory.create(path, {"environment": {"name": environment}, "seed": seed}, {})
    entropy = [chance.gauss(0, 1) for _ in range(9)]
    for step in range(9):
        metrics = {SUCCESS: -entropy[step - 1] if step else 0.0, f"{SUCCESS}_se": 0.1, "actor/entropy": entropy[step]}
        directory.append_metrics(step, metrics)
    directory.set_status("success", step=8)
    return path


@pytest.fixture
def sweep(tmp_path):
    points = []
    for seed in range(2):
        trained(tmp_path / "sweep" / f"seed_{seed}", seed)
        points.append({"label": f"seed_{seed}", "hash": "", "values": {"seed": str(seed)}})
    record = {"name": "test", "experiment": {}, "axes": {"seed": [0, 1]}, "points": points}
    (tmp_path / "sweep" / "sweep.yaml").write_text(dumps(record))
    return tmp_path / "sweep"


@pytest.fixture
def alone(tmp_path):
    return trained(tmp_path / "alone", 2, "countdown")


def invoke(*words):
    return CliRunner().invoke(main, ["report", *map(str, words)])


def test_runs_of_a_sweep_and_single_runs_are_correlated_together(sweep, alone):
    answer = invoke(sweep, alone, "--correlate", "--json")
    assert answer.exit_code == 0, answer.output
    data = json.loads(answer.stdout)
    assert [row["title"] for row in data["runs"]] == ["sweep: seed 0", "sweep: seed 1", "alone"]
    found = data["correlations"]
    assert (found["target"], found["lag"], found["runs"], found["environments"]) == (SUCCESS, 1, 3, 2)
    (row,) = found["metrics"]
    assert (row["metric"], row["within"]["rho"], row["within"]["runs"]) == ("actor/entropy", -1.0, 3)
    assert data["effects"] == data["points"] == []


def test_one_sweep_has_the_report_of_the_sweep(sweep):
    words = [sweep, "--correlate", SUCCESS, "--json"]
    of_sweep = CliRunner().invoke(main, ["sweep", "report", *map(str, words)])
    assert invoke(*words).stdout == of_sweep.stdout


def test_files_are_written_where_they_are_asked_for(sweep, alone, tmp_path):
    pytest.importorskip("matplotlib")
    assert "no page was written: give --out DIR" in invoke(sweep, alone).output
    assert not (alone / "report").exists()
    answer = invoke(alone, sweep, "--correlate", "--out", tmp_path / "new" / "pool")
    assert answer.exit_code == 0, answer.output
    assert {"report.html", "runs.csv", "correlations.csv"} <= {
        file.name for file in (tmp_path / "new" / "pool" / "report").iterdir()
    }
    text = (tmp_path / "new" / "pool" / "report" / "report.html").read_text("utf-8")
    assert "<h1>Runs of alone, sweep</h1>" in text
    assert f"uncollapse sweep run {sweep}/sweep.yaml" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Missing argument 'DIR...'"),
        (["ALONE", "ALONE"], "the run is given twice"),
        (["SWEEP", "SWEEP/seed_1"], "the run is given twice"),
        (["ALONE", "."], "the directory holds neither a sweep nor a run"),
        (["ALONE", "nowhere"], "the directory holds neither a sweep nor a run"),
        (["--correlate", "ALONE", "SWEEP"], "is a directory: write it before --correlate"),
        (["ALONE", "SWEEP", "--correlate", "validation/sucess"], "did you mean 'validation/success'?"),
        (["ALONE", "SWEEP", "--correlate", "validation/sucess"], "where: ALONE, SWEEP"),
        (["ALONE", "--lag", "2"], "give --correlate METRIC too"),
    ],
)
def test_wrong_requests_are_refused(sweep, alone, words, said):
    *words, said = (word.replace("ALONE", str(alone)).replace("SWEEP", str(sweep)) for word in [*words, said])
    answer = invoke(*words)
    assert (answer.exit_code, said in answer.output) == (2, True), answer.output
