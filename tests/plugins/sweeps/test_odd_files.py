"""Something that is no file in the place of one of a run's records: a directory, a pipe, a link to nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from sweep_help import LABELS, TITLES, Launcher, statuses, sweep
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.runs.repair import FILES
from uncollapse.plugins.report.sweep_report import read_report
from uncollapse.plugins.report.sweep_status import read_sweep_status
from uncollapse.plugins.sweeps import run as running
from uncollapse.plugins.sweeps.foreseen import foreseen
from uncollapse.plugins.sweeps.run import Options

ODD = {
    "directory": Path.mkdir,
    "pipe": os.mkfifo,
    "link to nothing": lambda file: file.symlink_to("nowhere"),
    "link to itself": lambda file: file.symlink_to(file.name),
    "device": lambda file: file.symlink_to("/dev/zero"),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Processes that hold a run are not waited for."""
    monkeypatch.setattr(running, "WAIT_S", 0.05)


def put(kind: str, file: Path) -> None:
    file.unlink(missing_ok=True)
    ODD[kind](file)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_goes_aside_and_every_point_is_right(tmp_path, kind, name, capsys):
    sweep().run(tmp_path, Launcher())
    put(kind, tmp_path / LABELS[1] / name)
    assert len(read_sweep_status(tmp_path).rows) == 4
    assert [run.status for run in read_report(tmp_path).sweep.runs].count("success") >= 3
    launcher = Launcher()
    result = sweep().run(tmp_path, launcher)
    assert (result.exit_code, set(statuses(tmp_path).values())) == (0, {"success"})
    assert set(launcher.ran()) <= {LABELS[1]}
    assert os.path.lexists(tmp_path / LABELS[1] / f"{name}.damaged")
    assert f"{name}.damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda run: put("pipe", run.metrics_file),
            ["a pipe is in the place of metrics.jsonl: it will be moved aside"],
        ),
        (lambda run: run.status_file.write_text("{"), ["the run's status is damaged: it is no JSON", "begun anew"]),
        (lambda run: run.set_status("success", step=3), ["the records of steps 0 to 3 are missing", "from the start"]),
        (lambda run: run.set_status("failed"), ["failed: resumed from the start"]),
        (lambda run: run.set_status("stopped:empty_filter"), ["runs again: the run that ended with stopped"]),
        (lambda run: run.config_file.write_text(""), ["its config.yaml is damaged or lost: it will be written again"]),
        (lambda run: run.config_file.write_text("seed: 7"), ["another configuration is there: it will be moved aside"]),
        (lambda run: None, ["skipped: already success"]),
    ],
)
def test_what_a_run_would_do_is_foreseen_and_nothing_is_changed(tmp_path, damage, words):
    assert [foreseen(point, ["success"]) for point in sweep().prepared(tmp_path)] == [[], [], [], []]
    sweep().run(tmp_path, Launcher())
    damage(RunDirectory(tmp_path / LABELS[1]))
    before = sorted(path.name for path in (tmp_path / LABELS[1]).iterdir())
    skipped = ["skipped: already success"]
    found = [foreseen(point, ["success"]) for point in sweep().prepared(tmp_path)]
    assert [found[0], *found[2:]] == [skipped] * 3
    assert all(word in " / ".join(found[1]) for word in words), found[1]
    assert sorted(path.name for path in (tmp_path / LABELS[1]).iterdir()) == before


def test_a_point_that_will_fail_is_foreseen(tmp_path):
    (tmp_path / LABELS[0]).write_text("a file in the place of a run")
    assert foreseen(sweep().prepared(tmp_path)[0], ["success"]) == ["fails: a file is in the place of its directory"]


def test_a_point_that_cannot_be_laid_out_fails_alone(tmp_path, capsys):
    (tmp_path / LABELS[0]).write_text("a file in the place of a run")
    (tmp_path / LABELS[2]).symlink_to("nowhere")
    launcher = Launcher()
    result = sweep().run(tmp_path, launcher)
    assert launcher.ran() == [LABELS[1], LABELS[3]]
    assert list(result.statuses.values()) == ["failed", "success", "failed", "success"]
    assert result.exit_code == 1
    said = capsys.readouterr().out
    assert f"{TITLES[0]}: failed, " in said
    assert f"{TITLES[2]}: failed, " in said


def test_a_record_that_cannot_be_read_is_the_failure_of_its_point(tmp_path, monkeypatch):
    sweep().run(tmp_path, Launcher())

    run = RunDirectory(tmp_path / LABELS[1])
    for step in (1, 2, 3):
        run.append_metrics(step, {"train/reward": 1.0})
    run.set_status("success", step=3)

    def denied(path, *_):  # as root, who runs the tests of some, nothing is denied
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("uncollapse.core.runs.records.read_bytes", denied)
    monkeypatch.setattr("shutil.copyfile", denied)
    launcher = Launcher()
    result = sweep().run(tmp_path, launcher)
    assert launcher.ran() == []
    assert list(result.statuses.values()) == ["success", "failed", "success", "success"]
    assert run.status()["status"] == "success"


@pytest.mark.parametrize("kind", ODD)
def test_a_status_that_is_replaced_while_it_runs_stops_no_other_point(tmp_path, kind):
    def replace(job):
        if job.name == LABELS[0]:
            put(kind, job.log.parent / "status.json")

    launcher = Launcher(replace)
    result = sweep().run(tmp_path, launcher)
    assert launcher.ran() == LABELS
    assert list(result.statuses.values())[1:] == ["success"] * 3
    assert result.exit_code in (1, 130)


def test_a_retry_may_mend_what_went_wrong_with_the_record_before(tmp_path, monkeypatch):
    def write(self, status, **fields):
        if status == "failed" and not raised:
            raised.append(OSError(errno.ENOSPC, "No space left on device", str(self.status_file)))
            raise raised[0]
        set_status(self, status, **fields)

    raised, set_status = [], RunDirectory.set_status
    monkeypatch.setattr(RunDirectory, "set_status", write)
    launcher = Launcher(**{LABELS[0]: ["died", "success"]})
    result = sweep().run(tmp_path, launcher, Options(retries=1))
    assert len(raised) == 1
    assert launcher.ran().count(LABELS[0]) == 2
    assert set(result.statuses.values()) == {"success"}


@pytest.mark.parametrize("name", [".lock", "sweep.yaml"])
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_in_the_home_of_a_sweep_goes_aside(tmp_path, kind, name):
    put(kind, tmp_path / name)
    assert sweep().run(tmp_path, Launcher()).exit_code == 0
    assert (tmp_path / name).is_file()
    assert os.path.lexists(tmp_path / f"{name}.damaged")
