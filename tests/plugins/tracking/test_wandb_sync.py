"""Uploading what W&B recorded offline: by a stand-in that leaves W&B's marker, and by the real command without W&B."""

from __future__ import annotations

import os
import sys
import threading

import pytest
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.tracking import wandb_sync
from uncollapse.plugins.tracking.wandb_sync import Syncer, offline_directories, sync, waiting

UPLOAD = """
import pathlib, sys
directory = pathlib.Path(sys.argv[-1])
with open({log!r}, "a") as log:
    log.write(directory.parts[-3] + "/" + directory.name + "\\n")
if {fails!r} in directory.name:
    sys.exit("first line\\nError: refused by the stand-in")
for file in directory.glob("*.wandb"):
    file.with_name(file.name + ".synced").touch()
"""


class Command:
    """A stand-in for ``wandb sync`` that notes what it is given; it refuses names with ``fails`` in them."""

    def __init__(self, directory, fails="nothing fails"):
        self.log = directory / "uploads.txt"
        self.log.write_text("")
        script = directory / "upload.py"
        script.write_text(UPLOAD.format(log=str(self.log), fails=fails))
        self.words = (sys.executable, str(script))

    def given(self):
        return self.log.read_text().splitlines()


def make_run(path, *names):
    run = RunDirectory.create(path, {"name": path.name}, {})
    for name in names:
        directory = path / "wandb" / f"offline-run-{name}"
        directory.mkdir(parents=True)
        (directory / "run-1.wandb").write_bytes(b"x")
    run.set_status("success", wandb={"id": "1"})
    return run


def test_every_directory_of_a_run_is_uploaded_once(tmp_path):
    run, command = make_run(tmp_path / "a", "1", "2"), Command(tmp_path)
    assert [path.name for path in waiting(run)] == ["offline-run-1", "offline-run-2"]
    assert sync(run, command.words) == ""
    assert command.given() == ["a/offline-run-1", "a/offline-run-2"]
    assert waiting(run) == []
    assert len(offline_directories(run)) == 2
    assert run.status()["wandb"] == {"id": "1", "offline": 2, "waiting": 0}
    assert run.status()["status"] == "success"
    assert sync(run, command.words) == ""
    assert len(command.given()) == 2


def test_a_failure_is_recorded_and_forgotten_when_it_works(tmp_path):
    run = make_run(tmp_path / "a", "bad", "good")
    assert sync(run, Command(tmp_path, fails="bad").words) == "Error: refused by the stand-in"
    expected = {"id": "1", "offline": 2, "waiting": 1, "sync_error": "Error: refused by the stand-in"}
    assert run.status()["wandb"] == expected
    command = Command(tmp_path)
    assert sync(run, command.words) == ""
    assert command.given() == ["a/offline-run-bad"]
    assert run.status()["wandb"] == {"id": "1", "offline": 2, "waiting": 0}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((sys.executable, "-c", "raise SystemExit(3)"), "exit code 3"),
        ((sys.executable, "-c", "pass"), "exit code 0"),  # it said that all was well, and nothing was uploaded
        (("/no/such/command",), "No such file or directory"),
    ],
)
def test_whatever_goes_wrong_has_a_reason(tmp_path, words, error):
    run = make_run(tmp_path / "a", "1")
    assert error in sync(run, words)
    assert error in run.status()["wandb"]["sync_error"]
    assert run.status()["wandb"]["waiting"] == 1


def test_relative_directories_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a", "1")
    command = Command(tmp_path)
    assert sync(RunDirectory("a"), command.words) == ""
    assert not list(tmp_path.glob("wandb"))


@pytest.mark.parametrize(
    ("when", "during", "after"),
    [("each", ["a/offline-run-1"], ["a/offline-run-1", "b/offline-run-1"]), ("end", [], None), ("never", [], [])],
)
def test_when_runs_are_uploaded(tmp_path, when, during, after):
    runs, command = [make_run(tmp_path / name, "1") for name in "ab"], Command(tmp_path)
    syncer = Syncer(when, command.words)
    syncer.ended(runs[0])
    if during:
        deadline = threading.Event()
        while waiting(runs[0]) and not deadline.wait(0.05):
            pass
    assert command.given() == during
    assert syncer.close(runs) == {}
    assert sorted(command.given()) == (["a/offline-run-1", "b/offline-run-1"] if after is None else after)


def test_what_could_not_be_uploaded_is_told_and_tried_once_more_at_the_end(tmp_path):
    runs, command = [make_run(tmp_path / name, "bad") for name in "ab"], Command(tmp_path, fails="bad")
    syncer = Syncer("each", command.words)
    syncer.ended(runs[0])
    errors = syncer.close(runs)
    assert errors == {run.path: "Error: refused by the stand-in" for run in runs}
    assert sorted(command.given()) == ["a/offline-run-bad"] * 2 + ["b/offline-run-bad"]


def test_runs_that_train_and_runs_without_a_record_are_no_obstacle(tmp_path):
    runs, command = [make_run(tmp_path / name, "1") for name in "abc"], Command(tmp_path)
    (runs[1].path / "status.json").write_text("{")
    with runs[0].hold():
        errors = Syncer("end", command.words).close(runs)
    assert command.given() == ["b/offline-run-1", "c/offline-run-1"]
    assert list(errors) == [runs[1].path]
    assert "status is damaged" in errors[runs[1].path]
    assert runs[2].status()["wandb"]["waiting"] == 0


def test_no_answer_is_waited_for_once(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb_sync, "TIMEOUT_S", 0.3)
    runs = [make_run(tmp_path / name, "1", "2") for name in "abc"]
    script = tmp_path / "hang.py"
    script.write_text(f"open({str(tmp_path / 'calls')!r}, 'a').write('x')\nimport time\ntime.sleep(60)\n")
    # The interpreter itself may take longer than the limit to start: it is one call at most.
    errors = Syncer("end", (sys.executable, "-S", str(script))).close(runs)
    assert errors == {runs[0].path: "no answer from W&B within 0 s"}
    calls = tmp_path / "calls"
    assert not calls.exists() or calls.read_text() == "x"
    assert "no answer" in runs[0].status()["wandb"]["sync_error"]
    assert "sync_error" not in runs[1].status()["wandb"]


# --- with the library itself ----------------------------------------------------------------------------------------


def record_offline(path, status="success"):
    from uncollapse.plugins.tracking.wandb import Wandb

    run = RunDirectory.create(path, {"seed": 0}, {}) if not path.exists() else RunDirectory.open(path)
    run.set_status("running")
    session = Wandb(project="p").start(run)
    session.run_started(run=run, experiment=None, step=0)
    session.step_finished(run=run, step=1, metrics={"train/reward": 1.0})
    session.run_finished(run=run, status=status, metrics={})
    run.set_status(status)
    return run


@pytest.fixture
def without_account(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_the_real_command_fails_without_an_account_and_says_so(tmp_path, without_account):
    run = record_offline(tmp_path / "run", "interrupted")
    (directory,) = waiting(run)
    assert directory.name.startswith("offline-run-")
    assert "API key" in sync(run)
    record = run.status()
    assert record["status"] == "interrupted"
    assert (record["wandb"]["offline"], record["wandb"]["waiting"]) == (1, 1)
    assert "API key" in record["wandb"]["sync_error"]
    run_id = record["wandb"]["id"]
    # A resumed run: a directory more, under the same id; what was not uploaded is still known.
    record_offline(run.path)
    wandb = run.status()["wandb"]
    assert wandb["id"] == run_id
    assert all(run_id in directory.name for directory in waiting(run))


def test_the_marker_of_the_real_library_is_the_one_that_is_looked_for(tmp_path, without_account):
    run = record_offline(tmp_path / "run")
    (directory,) = waiting(run)
    (file,) = directory.glob("*.wandb")
    file.with_name(f"{file.name}.synced").touch()
    assert waiting(run) == []
    import subprocess

    words = [sys.executable, "-m", "wandb", "sync", "--yes", str(directory)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "API key" not in done.stderr + done.stdout  # it takes it for uploaded, too
