from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from uncollapse.core.errors import MissingExtraError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.tracking.wandb import Wandb


class FakeRun:
    def __init__(self, **options):
        self.options, self.logged, self.summary, self.exit_code = options, [], {}, None
        self.id, self.url = options["id"], None

    def define_metric(self, name, step_metric):
        self.step_metric = step_metric

    def log(self, metrics):
        self.logged.append(metrics)

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def started(monkeypatch):
    """The runs that were started at a stand-in for wandb."""
    runs = []

    def init(**options):
        runs.append(FakeRun(**options))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))
    return runs


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "point", {"kl": {"coef": 0.01}}, {})


def test_offline_inside_the_run_directory_by_default(started, run):
    session = Wandb().start(run)
    session.run_started(run=run, experiment=None, step=0)
    options = started[0].options
    assert (options["mode"], options["project"], options["dir"]) == ("offline", "uncollapse", str(run.path))
    assert options["config"] == {"kl": {"coef": 0.01}}
    session.step_finished(run=run, step=3, metrics={"train/reward": 1.0})
    assert started[0].logged == [{"train/reward": 1.0, "step": 3}]
    assert started[0].step_metric == "step"


def test_the_name_is_that_of_the_directory_unless_it_is_given(started, run):
    for tracker in (Wandb(), Wandb(run_name="sokoban_kl", group="kl", project="p")):
        tracker.start(run).run_started(run=run, experiment=None, step=0)
    assert [each.options["name"] for each in started] == ["point", "sokoban_kl"]
    assert (started[1].options["group"], started[1].options["project"]) == ("kl", "p")


def test_the_record_of_the_run_names_its_own_id_and_keeps_its_status(started, run):
    run.set_status("running")
    Wandb(project="p").start(run).run_started(run=run, experiment=None, step=0)
    run_id = (run.path / "wandb" / "id").read_text()
    assert run.status()["wandb"] == {"id": run_id, "project": "p", "mode": "offline"}
    assert run.status()["status"] == "running"


def test_a_resumed_run_continues_under_its_own_id(started, run, tmp_path):
    for _ in range(2):
        Wandb().start(run).run_started(run=run, experiment=None, step=0)
    other = RunDirectory.create(tmp_path / "other", {"seed": 0}, {})
    Wandb().start(other).run_started(run=other, experiment=None, step=0)
    first, resumed, another = (each.options["id"] for each in started)
    assert first == resumed != another
    assert all(each.options["resume"] == "allow" for each in started)


@pytest.mark.parametrize(
    ("status", "exit_code"), [("success", 0), ("stopped:empty_filter", 0), ("failed", 1), ("interrupted", 1)]
)
def test_the_run_is_finished_with_its_status(started, run, status, exit_code):
    session = Wandb().start(run)
    session.run_started(run=run, experiment=None, step=0)
    session.run_finished(run=run, status=status, metrics={})
    assert started[0].summary == {"status": status}
    assert started[0].exit_code == exit_code


def test_a_run_that_fails_before_it_started_has_nothing_to_finish(started, run):
    Wandb().start(run).run_finished(run=run, status="failed", metrics={})
    assert started == []


def test_without_wandb_the_extra_is_named(monkeypatch, run):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"uncollapse\[train\]"):
        Wandb().start(run)


def test_the_mode_is_checked():
    with pytest.raises(ValueError, match="mode"):
        Wandb(mode="of-line")


def test_the_real_library_writes_offline(run):
    pytest.importorskip("wandb")
    session = Wandb().start(run)
    session.run_started(run=run, experiment=None, step=0)
    session.step_finished(run=run, step=1, metrics={"train/reward": 1.0})
    session.run_finished(run=run, status="success", metrics={})
    run_id = Path(run.path / "wandb" / "id").read_text()
    assert list(run.path.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))


@pytest.mark.parametrize("left", ["", "\0\0\0\0", None])
@pytest.mark.parametrize(
    "recorded", [(), ("offline-run-20260101_000000-aaaa1111", "offline-run-20260102_000000-bbbb2222")]
)
def test_an_id_that_a_kill_left_empty_is_that_of_its_records_or_a_new_one(started, run, left, recorded):
    (run.path / "wandb").mkdir()
    for name in recorded:
        (run.path / "wandb" / name).mkdir()
    if left is not None:
        (run.path / "wandb" / "id").write_text(left)
    for _ in range(2):
        Wandb().start(run).run_started(run=run, experiment=None, step=0)
    first, second = (each.options["id"] for each in started)
    assert first == second == (run.path / "wandb" / "id").read_text()
    assert first == "bbbb2222" if recorded else len(first) == 8
