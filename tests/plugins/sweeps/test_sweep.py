from __future__ import annotations

import fcntl
import sys
from pathlib import Path

import pytest
from sweep_help import BASE, LABELS, TITLES, Interrupted, Launcher, sweep
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import loads
from uncollapse.plugins.report.data import SweepData
from uncollapse.plugins.sweeps.run import describe, move_aside
from uncollapse.plugins.sweeps.sweep import Sweep, load


def test_every_point_runs_once_in_its_own_directory(tmp_path, capsys):
    launcher = Launcher()
    result = sweep().run(tmp_path, launcher)
    assert launcher.ran() == LABELS
    assert result.statuses == dict.fromkeys(LABELS, "success")
    assert result.exit_code == 0
    config = RunDirectory.open(tmp_path / LABELS[3]).read_config()
    assert (config["kl"]["coef"], config["filter"]["select"]["value"]) == (0.01, 0.9)
    job = launcher.jobs[3]
    directory = tmp_path / LABELS[3]
    train = [sys.executable, "-m", "uncollapse.cli.main", "train", str(directory / "config.yaml")]
    assert list(job.argv) == [*train, "--run-dir", str(directory), "--resume"]
    assert job.log == directory / "log.txt"
    assert f"[4/4] {TITLES[3]}: success, validation success 0.500 ± 0.050" in capsys.readouterr().out


def test_what_succeeded_is_skipped_what_stopped_runs_anew_and_the_rest_goes_on(tmp_path, capsys):
    ended = dict(zip(LABELS, ["success", "stopped:empty_filter", "failed", "interrupted"], strict=True))
    first = sweep().run(tmp_path, Launcher(**ended))
    assert first.statuses == ended
    assert first.exit_code == 1
    old = RunDirectory(tmp_path / LABELS[1]).status()
    again = Launcher()
    second = sweep().run(tmp_path, again)
    assert again.ran() == LABELS[1:]
    assert second.exit_code == 0
    attempts = [RunDirectory(tmp_path / label).status()["attempts"] for label in LABELS]
    assert attempts == [1, 1, 2, 2]
    aside = tmp_path / f"{LABELS[1]}.{old['hash'][:8]}"
    assert RunDirectory(aside).status() == old
    output = capsys.readouterr().out.splitlines()
    assert f"{TITLES[1]}: runs again, the run that ended with stopped:empty_filter is now at {aside}" in output
    assert f"{TITLES[0]}: skipped, already success" in output
    third = Launcher()
    sweep().run(tmp_path, third)
    assert third.ran() == []


def test_what_was_queued_when_the_sweep_ended_is_started(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        sweep().run(tmp_path, Interrupted())
    assert RunDirectory(tmp_path / LABELS[0]).status()["status"] == "queued"
    launcher = Launcher()
    sweep().run(tmp_path, launcher)
    assert launcher.ran() == LABELS
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == set(LABELS)


def test_a_process_that_died_without_a_word_has_failed(tmp_path):
    result = sweep().run(tmp_path, Launcher(**{LABELS[1]: "died"}))
    assert result.statuses[LABELS[1]] == "failed"
    assert "killed by signal 9 (SIGKILL): perhaps out of memory" in RunDirectory(tmp_path / LABELS[1]).status()["error"]
    assert result.exit_code == 1


def test_exit_code_of_an_interrupted_run(tmp_path):
    assert sweep().run(tmp_path, Launcher(**{LABELS[1]: "interrupted"})).exit_code == 130


def test_another_configuration_is_moved_aside_and_nothing_is_overwritten(tmp_path):
    sweep().run(tmp_path, Launcher())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    launcher = Launcher()
    sweep(overrides={"trainer.steps": 4}).run(tmp_path, launcher)
    assert launcher.ran() == LABELS
    old_hashes = {point.label: point.hash for point in sweep().points()}
    for path, content in before.items():
        relative = path.relative_to(tmp_path)
        if relative.name != "sweep.yaml":
            label = relative.parts[0]
            assert (tmp_path / f"{label}.{old_hashes[label][:8]}" / Path(*relative.parts[1:])).read_bytes() == content
    (old_record,) = tmp_path.glob("sweep.yaml.*")
    assert old_record.read_bytes() == before[tmp_path / "sweep.yaml"]


def test_a_name_that_is_taken_gets_a_number(tmp_path):
    for expected in ("a_0.5.12345678", "a_0.5.12345678.1", "a_0.5.12345678.2"):
        (tmp_path / "a_0.5").mkdir()
        assert move_aside(tmp_path / "a_0.5", "1234567890") == tmp_path / expected
        assert (tmp_path / expected).is_dir()


def test_changes_of_trackers_do_not_make_another_experiment(tmp_path):
    sweep().run(tmp_path, Launcher())
    launcher = Launcher()
    sweep(overrides={"trackers": ["jsonl"]}).run(tmp_path, launcher)
    assert launcher.ran() == []


def test_the_record_is_a_sweep_that_gives_the_same_points(tmp_path):
    sweep(overrides={"kl.estimator": "mse"}).run(tmp_path, Launcher())
    again = load(tmp_path / "sweep.yaml")
    assert again.title == "test"
    assert again.points() == sweep(overrides={"kl.estimator": "mse"}).points()
    record = loads((tmp_path / "sweep.yaml").read_text())
    assert [point["label"] for point in record["points"]] == LABELS
    assert record["points"][2]["values"] == {"filter.select": "top_p(0.9)", "kl.coef": "0"}


def test_a_report_finds_the_place_of_each_point_on_joint_axes(tmp_path):
    axes = {
        "kl.coef,entropy_coeff": [[0, 0.1], [0.1, 0]],
        "setting": [{"trainer.lr": 1e-6, "seed": 1}, {"trainer.lr": 2e-6, "seed": 2}],
        "filter.select": [{"name": "top_p", "value": 0.9}],
    }
    Sweep(BASE, axes, name="joint").run(tmp_path, Launcher())
    data = SweepData.read(tmp_path)
    assert data.axes["kl.coef,entropy_coeff"] == ["kl.coef=0, entropy_coeff=0.1", "kl.coef=0.1, entropy_coeff=0"]
    assert data.axes["setting"] == ["trainer.lr=1e-06, seed=1", "trainer.lr=2e-06, seed=2"]
    assert data.axes["filter.select"] == ["top_p(value=0.9)"]
    assert len({tuple(run.point.values()) for run in data.runs}) == 4


def test_two_processes_do_not_run_one_sweep(tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RequestError, match="another process") as refused:
            sweep().run(tmp_path, Launcher())
    assert refused.value.fix == "wait for it, or give another --output-root (root=... in Python)"
    assert not (tmp_path / "sweep.yaml").exists()


def test_nothing_is_started_if_one_point_is_wrong(tmp_path):
    launcher = Launcher()
    with pytest.raises(RequestError, match="no_such_filter"):
        Sweep(BASE, {"filter.select": ["nofilter", "no_such_filter"]}).run(tmp_path / "root", launcher)
    assert launcher.jobs == []
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axes: {seed: [0]}", "experiment: is missing"),
        ("experiment: x\naxes: {seed: [0]}\nroots: here", "did you mean 'root'"),
        ("experiment: [", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, message):
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(RequestError, match=message):
        load(file)


def test_unknown_sweeps_are_explained(tmp_path):
    with pytest.raises(RequestError, match="demos"):
        load("demos")
    with pytest.raises(RequestError, match="cannot be read"):
        load(tmp_path / "absent.yaml")


def test_the_demo_crosses_the_filter_and_the_kl():
    demo = load("demo")
    assert demo.axes == {"filter.select": ["nofilter", "top_p(0.9)"], "kl.coef": [0, 0.01]}
    assert demo.overrides == {"advantage": "gae", "kl.estimator": "low_var_kl"}
    assert (demo.title, demo.experiment, demo.root) == ("demo", "tiny-sokoban", Path("runs/demo"))


def test_a_status_in_one_line():
    assert describe({}) == "not started"
    assert describe({"status": "failed", "error": "no memory\nat all"}) == "failed, no memory"
    assert describe({"status": "success", "metrics": {"validation/success": None}}) == "success"
