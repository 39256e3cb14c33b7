"""Runs that lie aside are taken back, and runs of other sources are never kept or mixed without a word."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner
from sweep_help import BASE, Launcher
from uncollapse.cli.main import main
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.runs.sources import record_attempt
from uncollapse.plugins.report.sweep_report import read_report
from uncollapse.plugins.sweeps.aside import take_back
from uncollapse.plugins.sweeps.layout import Layout
from uncollapse.plugins.sweeps.run import Options
from uncollapse.plugins.sweeps.sweep import Sweep

LAYOUT = Layout(log="logs/$label.log", checkpoints="saved/$label")


def one(steps: int, **options) -> Sweep:
    experiment = {**BASE, "trainer": {"steps": steps}}
    return Sweep(experiment, {"kl.coef": [0.01]}, name="one", layout=LAYOUT, **options)


def ran(sweep: Sweep, root: Path, outcome: str = "success", **options) -> list[str]:
    """The jobs of a pass, each of which marks its directory by the steps of its experiment."""

    def mark(job):
        run = RunDirectory(job.log.parent)
        (run.path / "mark").write_text(str(run.read_config()["trainer"]["steps"]))
        (run.checkpoint_directory / "mark").write_text("saved")
        run.annotate(step=1)
        run.append_metrics(1, {})

    launcher = Launcher(mark, **{"kl.coef_0.01": outcome})
    sweep.run(root, launcher, Options(**options))
    return launcher.ran()


def test_a_finished_run_beside_is_taken_back_with_its_links(tmp_path, capsys):
    run = tmp_path / "kl.coef_0.01"
    assert [len(ran(one(steps), tmp_path)) for steps in (8, 10, 8, 10, 8)] == [1, 1, 0, 0, 0]
    assert (run / "mark").read_text() == "8"
    assert (tmp_path / "logs" / "kl.coef_0.01.log").resolve() == (run / "log.txt").resolve()
    assert (tmp_path / "saved" / "kl.coef_0.01" / "mark").read_text() == "saved"
    directories = [path for path in tmp_path.iterdir() if path.name.startswith("kl.coef") and path.is_dir()]
    assert len(directories) == 2
    assert "kl.coef 0.01: taken back from" in capsys.readouterr().out


def test_a_run_that_can_go_on_is_taken_back_and_resumed(tmp_path):
    assert ran(one(8), tmp_path, "interrupted") == ["kl.coef_0.01"]
    ran(one(10), tmp_path)
    assert ran(one(8), tmp_path) == ["kl.coef_0.01"]
    assert RunDirectory(tmp_path / "kl.coef_0.01").status()["attempts"] == 2


@pytest.mark.parametrize("moved", [False, True])
def test_a_kill_between_the_two_renamings_loses_neither_run(tmp_path, monkeypatch, moved):
    ran(one(8), tmp_path)
    ran(one(10), tmp_path)
    if moved:  # what lies aside is in place, and the sweep was killed before anything else
        (tmp_path / "kl.coef_0.01").rename(tmp_path / "kl.coef_0.01.tmp")
        (aside,) = tmp_path.glob("kl.coef_0.01.????????")
        aside.rename(tmp_path / "kl.coef_0.01")
        (tmp_path / "kl.coef_0.01.tmp").rename(tmp_path / f"kl.coef_0.01.{one(10).points()[0].hash[:8]}")
    else:
        (tmp_path / "kl.coef_0.01").rename(tmp_path / f"kl.coef_0.01.{one(10).points()[0].hash[:8]}")
    assert ran(one(8), tmp_path) == []
    assert ran(one(10), tmp_path) == []


def test_what_ended_goes_before_what_can_go_on_and_what_would_run_anew_stays(tmp_path):
    digest = one(8).points()[0].hash
    ran(one(8), tmp_path)
    run = tmp_path / "kl.coef_0.01"
    for number, status in enumerate(("interrupted", "success", "stopped:empty_filter")):
        import shutil

        copy = tmp_path / f"kl.coef_0.01.{digest[:8]}.{number}"
        shutil.copytree(run, copy)
        RunDirectory(copy).set_status(status, step=7 - number)
    shutil.rmtree(run)
    assert take_back(run, digest, ("success",), lambda run: True).path.name.endswith(".1")
    run.rename(tmp_path / "away")
    assert take_back(run, digest, (), lambda run: True).path.name.endswith(".0")
    run.rename(tmp_path / "away.0")
    assert take_back(run, digest, ("success",), lambda run: True) is None


def test_a_finished_run_with_a_damaged_record_is_repaired_or_trained_again(tmp_path, capsys):
    ran(one(8), tmp_path)
    run = RunDirectory(tmp_path / "kl.coef_0.01")
    run.metrics_file.write_bytes(run.metrics_file.read_bytes()[:-4])
    (row,) = read_report(tmp_path).sweep.runs
    assert row.status == "damaged"
    assert read_report(tmp_path).to_dict()["left_out"] == [row.title]
    assert ran(one(8), tmp_path) == ["kl.coef_0.01"]  # there is no checkpoint with a copy
    assert "the record" in capsys.readouterr().out


# --- sources --------------------------------------------------------------------------------------------------------

PLUGIN = '''
import attrs
from uncollapse import hookimpl
from uncollapse.filters.nofilter import NoFilter


@attrs.frozen
class Mine(NoFilter):
    """Keeps every group."""


@hookimpl
def register_rollout_filters(register):
    register("mine", Mine, summary="mine")
'''


@pytest.fixture
def sourced(tmp_path):
    """A sweep with a filter of a plugin file, and a function that gives the file another source."""
    registry.cache_clear()
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    made = attrs.evolve(one(8), experiment={**BASE, "filter": {"select": "mine"}, "plugins": [str(file)]})

    def change() -> None:
        file.write_text(file.read_text() + "\n# another source\n")
        registry.cache_clear()

    yield made, change
    registry.cache_clear()


def test_a_run_of_another_source_is_neither_skipped_nor_run_without_being_asked(tmp_path, sourced, capsys):
    made, change = sourced
    root = tmp_path / "runs"
    assert ran(made, root) == ["kl.coef_0.01"]
    assert ran(made, root) == []
    change()
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(RequestError, match="1 of the runs") as refused:
        ran(made, root)
    assert "filter.select: mine" in refused.value.where
    assert refused.value.fix == (
        "--stale rerun moves them aside and trains them anew, "
        "--stale keep takes them as they are (SweepOptions(stale=...) in Python)"
    )
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert ran(made, root, stale="keep") == []
    assert "kept, with other sources than those of now (filter.select: mine" in capsys.readouterr().out
    assert ran(made, root, stale="rerun") == ["kl.coef_0.01"]
    (aside,) = (path for path in root.iterdir() if path.name.startswith("kl.coef_0.01."))
    assert (aside / "mark").exists()
    assert ran(made, root) == []


@pytest.mark.parametrize("damage", ["", "{", None])
def test_a_run_of_other_sources_is_known_without_its_status(tmp_path, sourced, damage):
    from uncollapse.core.runs.manifest import build_manifest

    made, change = sourced
    root = tmp_path / "runs"
    ran(made, root, "interrupted")
    change()
    run = RunDirectory(root / "kl.coef_0.01")
    run.status_file.unlink() if damage is None else run.status_file.write_text(damage)
    with pytest.raises(RequestError, match="1 of the runs"):
        ran(made, root)
    assert ran(made, root, "interrupted", stale="rerun") == ["kl.coef_0.01"]
    (aside,) = (path for path in root.iterdir() if path.name.startswith("kl.coef_0.01."))
    assert (aside / "mark").exists()
    RunDirectory(aside).status_file.unlink(missing_ok=True)
    record_attempt(RunDirectory(aside), build_manifest(made.points()[0].experiment, registry()))
    assert len(RunDirectory(aside).manifest()["attempts"]) == 1


def test_a_run_of_another_source_stays_aside(tmp_path, sourced, capsys):
    made, change = sourced
    root = tmp_path / "runs"
    ran(made, root)
    change()
    ran(made.changed({"trainer.steps": 10}), root)
    assert ran(made, root) == ["kl.coef_0.01"]
    assert "it stays aside" in capsys.readouterr().out


def test_the_report_names_runs_of_different_sources_and_mixed_ones(tmp_path, sourced, capsys):
    made, change = sourced
    made = attrs.evolve(made, axes={"kl.coef": [0, 0.01, 0.1]})
    root = tmp_path / "runs"
    made.run(root, Launcher(**{"kl.coef_0.01": "interrupted", "kl.coef_0.1": "interrupted"}))
    assert read_report(root).to_dict()["sources"] == []
    change()
    again = RunDirectory(root / "kl.coef_0.1")
    from uncollapse.core.runs.manifest import build_manifest

    record_attempt(again, build_manifest(made.points()[2].experiment, registry()))
    attempts = json.loads((again.path / "manifest.json").read_text())["attempts"]
    assert len(attempts) == 1
    assert attempts[0]["components"]["filter.select"]["name"] == "mine"
    rows = [row for row in read_report(root).to_dict()["sources"] if row["source"].startswith("filter.select: mine")]
    assert [row["runs"] for row in rows] == ["kl.coef 0; kl.coef 0.01; kl.coef 0.1", "kl.coef 0.1"]
    answer = CliRunner().invoke(main, ["sweep", "report", str(root)])
    assert "Sources that differ" in answer.output
