from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main

FILE = """
experiment: {environment: sokoban, model: {path: some/model}, trainer: {steps: 9}}
axes: {kl.coef: [0, 0.01]}
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "small.yaml").write_text(FILE)
    return tmp_path / "small.yaml"


def invoke(*words):
    return CliRunner().invoke(main, ["sweep", *map(str, words)])


def test_list():
    names = [sweep["name"] for sweep in json.loads(invoke("list", "--json").stdout)]
    assert "demo" in names


def test_show_names_every_point(file):
    answer = invoke("show", file, "--seeds", "0,1", "--axis", "filter.select=nofilter,top_p(0.9)")
    assert answer.exit_code == 0
    assert "sweep small: 8 points" in answer.output
    assert "kl.coef_0.01__top_p_0.9__seed_1" in answer.output


def test_run_changes_every_point_and_passes_on_the_exit_code(file, tmp_path, monkeypatch):
    from uncollapse.core.runs.directory import RunDirectory
    from uncollapse.plugins.launch.local import Local

    seen = []

    def run(self, jobs, on_start=None, on_finish=None):
        for job in jobs:
            directory = RunDirectory(job.log.parent)
            config = directory.read_config()
            seen.append((self.slots, config["trainer"]["steps"], config["kl"]["coef"], config["entropy"]["coef"]))
            directory.set_status("failed" if config["kl"]["coef"] else "success")
            on_finish(job, 0)

    monkeypatch.setattr(Local, "run", run)
    options = ("--steps", 2, "--slots", 3, "--set", "entropy_coeff=0.5", "--root", tmp_path / "runs")
    answer = invoke("run", file, *options)
    assert answer.exit_code == 1, answer.output
    assert sorted(seen) == [(3, 2, 0.0, 0.5), (3, 2, 0.01, 0.5)]
    assert f"report: {tmp_path}/runs/report/report.html" in answer.output.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "demos"), "did you mean 'demo'"),
        (("run", "small.yaml", "--set", "kl.coef"), "has no value"),
        (("run", "small.yaml", "--slots", "0"), "at least 1"),
        (("run", "small.yaml", "--launcher", "locale"), "did you mean 'local'"),
        (("run", "small.yaml", "--axis", "kl.coeff=1"), "kl.coeff"),
        (("run", "small.yaml", "--root", "small.yaml/x"), "directory cannot be written: Not a directory"),
    ],
)
def test_wrong_requests_end_with_2_and_start_nothing(file, monkeypatch, words, message):
    monkeypatch.chdir(file.parent)
    answer = invoke(*words)
    assert answer.exit_code == 2, answer.output
    assert message in answer.output
    assert not (file.parent / "runs").exists()


def test_a_report_that_cannot_be_written_does_not_change_how_the_sweep_ended(file, tmp_path, monkeypatch):
    from uncollapse.core.runs.directory import RunDirectory
    from uncollapse.plugins.launch.local import Local

    def run(self, jobs, on_start=None, on_finish=None):
        for job in jobs:
            RunDirectory(job.log.parent).set_status("success")
            on_finish(job, 0)

    monkeypatch.setattr(Local, "run", run)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "report").write_text("a file in the place of the directory")
    answer = invoke("run", file, "--root", tmp_path / "runs")
    assert answer.exit_code == 0, answer.output
    assert "no report was written: " in answer.stderr


def test_a_dry_run_says_what_becomes_of_the_runs_that_are_there(file, tmp_path, monkeypatch):
    test_a_report_that_cannot_be_written_does_not_change_how_the_sweep_ended(file, tmp_path, monkeypatch)
    _, second = sorted(path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    (second / "metrics.jsonl").mkdir()
    said = invoke("run", file, "--root", tmp_path / "runs", "--dry-run").stdout
    assert "    skipped: already success\n" in said
    assert "    a directory is in the place of metrics.jsonl: it will be moved aside\n" in said
    assert (second / "metrics.jsonl").is_dir()
