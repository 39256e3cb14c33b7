"""The records of runs: one per run, true, and whole again after whatever was cut off."""

from __future__ import annotations

import json
import sys
import threading

import pytest
from sweep_help import AXES, BASE, LABELS, TITLES, Launcher, statuses, sweep
from uncollapse.core import components
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import loads
from uncollapse.plugins.sweeps import run as running
from uncollapse.plugins.sweeps.run import Options
from uncollapse.plugins.sweeps.sweep import Sweep, load


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Processes that hold a run are not waited for."""
    monkeypatch.setattr(running, "WAIT_S", 0.05)


def cut(file, share=0.5):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    return file.read_bytes()


def one(**options) -> Sweep:
    return Sweep(BASE, {"kl.coef": [0.01]}, name="one", **options)


@pytest.fixture
def run(tmp_path):
    """The run of a sweep of one point, which has succeeded."""
    one().run(tmp_path, Launcher())
    return RunDirectory(tmp_path / "kl.coef_0.01")


# --- retries and skips ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempts", "retries", "ran", "state"),
    [
        (["failed", "success"], 1, 2, "success"),
        (["died", "success"], 1, 2, "success"),
        (["failed", "success"], 0, 1, "failed"),
        (["failed", "died", "failed", "success"], 2, 3, "failed"),
        (["refused", "success"], 5, 1, "failed"),
        (["stopped:empty_filter", "success"], 5, 1, "stopped:empty_filter"),
        (["interrupted", "success"], 5, 1, "interrupted"),
    ],
)
def test_failed_runs_are_tried_again_up_to_a_cap(tmp_path, attempts, retries, ran, state):
    launcher = Launcher(**{"kl.coef_0.01": list(attempts)})
    result = one().run(tmp_path, launcher, Options(retries=retries))
    assert len(launcher.jobs) == ran
    assert result.statuses == {"kl.coef_0.01": state}


@pytest.mark.parametrize(
    ("skip", "again"),
    [
        (("success",), LABELS[1:]),
        (("success", "stopped"), LABELS[2:]),
        (("success", "stopped:empty_filter", "failed"), LABELS[3:]),
        (("success", "stopped:other"), LABELS[1:]),
        (("stopped", "interrupted"), [LABELS[0], LABELS[2]]),
        ((), LABELS),
    ],
)
def test_what_is_skipped(tmp_path, skip, again):
    ended = dict(zip(LABELS, ["success", "stopped:empty_filter", "failed", "interrupted"], strict=True))
    sweep().run(tmp_path, Launcher(**ended))
    launcher = Launcher()
    result = sweep().run(tmp_path, launcher, Options(skip_statuses=skip))
    assert launcher.ran() == again
    assert result.statuses == {label: "success" if label in again else ended[label] for label in LABELS}
    # Of what was done no record is lost: it is aside, or the run goes on in it.
    aside = {path.name.rpartition(".")[0] for path in tmp_path.iterdir() if path.is_dir() and path.name not in LABELS}
    assert aside == {label for label in again if ended[label] in ("success", "stopped:empty_filter")}


def test_another_number_of_steps_is_not_skipped(tmp_path, run):
    launcher = Launcher()
    one(overrides={"trainer.steps": 4}).run(tmp_path, launcher)
    assert launcher.ran() == ["kl.coef_0.01"]


def test_a_process_that_ends_before_it_trains_does_not_keep_the_record_of_the_last_one(tmp_path):
    one().run(tmp_path, Launcher(**{"kl.coef_0.01": "interrupted"}))
    result = one().run(tmp_path, Launcher(**{"kl.coef_0.01": "refused"}))
    assert result.statuses == {"kl.coef_0.01": "failed"}
    record = RunDirectory(tmp_path / "kl.coef_0.01").status()
    assert record["error"] == "the process ended with code 2; see log.txt"
    assert result.exit_code == 1


def test_wall_time_adds_up_over_attempts(tmp_path, monkeypatch):
    now = iter(range(0, 1000, 10))
    clock = type("time", (), {"monotonic": staticmethod(lambda: next(now))})
    monkeypatch.setattr(running, "time", clock)
    one().run(tmp_path, Launcher(**{"kl.coef_0.01": ["failed", "failed", "success"]}), Options(retries=5))
    record = RunDirectory(tmp_path / "kl.coef_0.01").status()
    assert record["attempts"] == 3
    single = record["timings"]["wall"] / 3
    assert single in (10, 20)  # one or two looks at the clock between start and end


# --- files that were cut off ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_status_cut_off_is_kept_beside_and_the_run_goes_on(tmp_path, run, share, capsys):
    content = cut(run.path / "status.json", share)
    run.append_metrics(1, {"train/reward": 1.0})
    launcher = Launcher()
    result = one().run(tmp_path, launcher)
    assert launcher.ran() == ["kl.coef_0.01"]  # it says for itself that it had ended, if it had
    assert result.statuses == {"kl.coef_0.01": "success"}
    assert (run.path / "status.json.damaged").read_bytes() == content
    assert f"status.json is damaged, now at {run.path / 'status.json.damaged'}" in capsys.readouterr().out
    assert [record["step"] for record in run.metrics()] == [1]
    assert run.status()["hash"] == one().points()[0].hash
    # again: the first copy stays
    cut(run.path / "status.json")
    one().run(tmp_path, Launcher())
    assert (run.path / "status.json.damaged").read_bytes() == content
    assert (run.path / "status.json.damaged.1").exists()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.95])
def test_a_configuration_cut_off_is_written_again_where_the_status_knows_it(tmp_path, run, share, capsys):
    before = run.read_config()
    content = cut(run.config_file, share)
    launcher = Launcher()
    one().run(tmp_path, launcher)
    assert launcher.ran() == []  # it has succeeded
    assert run.read_config() == before
    assert (run.path / "config.yaml.damaged").read_bytes() == content
    assert "config.yaml is damaged" in capsys.readouterr().out
    assert run.status()["status"] == "success"


def test_a_configuration_cut_off_within_a_character(tmp_path):
    made = Sweep({**BASE, "model": {"path": "modèle"}}, {"seed": [0]}, name="one")
    made.run(tmp_path, Launcher())
    file = tmp_path / "seed_0" / "config.yaml"
    content = file.read_bytes()
    file.write_bytes(content[: content.index("è".encode()) + 1])
    launcher = Launcher()
    made.run(tmp_path, launcher)
    assert launcher.ran() == []
    assert file.read_bytes() == content


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_what_nobody_knows_any_more_is_moved_aside(tmp_path, run, share):
    cut(run.config_file, share)
    cut(run.path / "status.json")
    run.append_metrics(1, {"train/reward": 1.0})
    launcher = Launcher()
    result = one().run(tmp_path, launcher)
    assert launcher.ran() == ["kl.coef_0.01"]
    assert result.statuses == {"kl.coef_0.01": "success"}
    assert run.metrics() == []
    (aside,) = (path for path in tmp_path.iterdir() if path.is_dir() and path != run.path)
    assert [record["step"] for record in RunDirectory(aside).metrics()] == [1]


def test_checkpoints_of_an_unknown_run_are_not_resumed_from(tmp_path, run):
    run.append_metrics(1, {"train/reward": 1.0})
    run.config_file.unlink()
    (run.path / "status.json").unlink()
    one().run(tmp_path, Launcher())
    assert run.metrics() == []
    assert [r["step"] for r in RunDirectory(tmp_path / "kl.coef_0.01.unknown").metrics()] == [1]


def test_a_configuration_that_is_gone_is_written_again_where_the_status_knows_it(tmp_path, run):
    before = run.config_file.read_bytes()
    run.config_file.unlink()
    launcher = Launcher()
    one().run(tmp_path, launcher)
    assert (launcher.ran(), run.config_file.read_bytes()) == ([], before)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.95])
def test_a_sweep_record_cut_off_is_kept_beside_and_written_again(tmp_path, run, share):
    whole = (tmp_path / "sweep.yaml").read_bytes()
    content = cut(tmp_path / "sweep.yaml", share)
    launcher = Launcher()
    one().run(tmp_path, launcher)
    assert launcher.ran() == []
    assert (tmp_path / "sweep.yaml").read_bytes() == whole
    (aside,) = tmp_path.glob("sweep.yaml.*")
    assert aside.read_bytes() == content


def test_metrics_cut_off_lose_the_last_record_alone(tmp_path, run, capsys):
    for step in range(4):
        run.append_metrics(step, {"timing_s/step": 1.0, "timing_s/total": step + 1.0})
    run.metrics_file.write_bytes(run.metrics_file.read_bytes()[:-9])
    run.set_status("interrupted")
    one().run(tmp_path, Launcher())
    assert [record["step"] for record in run.metrics()] == [0, 1, 2]
    assert run.status()["timings"]["train"] == 2.0
    # damaged in the middle: the run says so itself, the sweep goes on
    run.metrics_file.write_bytes(b'{"step": 0\n' + run.metrics_file.read_bytes())
    run.set_status("interrupted")
    assert one().run(tmp_path, Launcher()).statuses == {"kl.coef_0.01": "success"}


def test_a_record_damaged_while_it_runs_stops_nothing(tmp_path):
    def damage(job):
        if job.name == LABELS[1]:
            cut(job.log.parent / "status.json")

    launcher = Launcher(damage)
    result = sweep().run(tmp_path, launcher)
    assert launcher.ran() == LABELS
    assert result.statuses == {label: "interrupted" if label == LABELS[1] else "success" for label in LABELS}
    assert result.exit_code == 130
    again = Launcher()
    assert sweep().run(tmp_path, again).exit_code == 0
    assert again.ran() == [LABELS[1]]


def test_a_directory_that_vanishes_while_it_runs_stops_nothing(tmp_path):
    import shutil

    def vanish(job):
        if job.name == LABELS[1]:
            shutil.rmtree(job.log.parent)

    result = sweep().run(tmp_path, Launcher(vanish))
    assert result.statuses == {label: "not started" if label == LABELS[1] else "success" for label in LABELS}
    assert result.exit_code == 1


# --- others at work -------------------------------------------------------------------------------------------------


def test_a_run_that_another_process_holds_is_left_alone_and_reported(tmp_path, capsys):
    sweep().run(tmp_path, Launcher(**{LABELS[1]: "failed", LABELS[2]: "failed"}))
    held = RunDirectory(tmp_path / LABELS[1])
    held.set_status("running")
    cut(held.path / "config.yaml")
    launcher = Launcher()
    with held.hold():
        before = {path: path.read_bytes() for path in held.path.iterdir()}
        result = sweep().run(tmp_path, launcher)
    assert launcher.ran() == [LABELS[2]]
    assert {path: path.read_bytes() for path in held.path.iterdir()} == before
    assert f"{TITLES[1]}: skipped, another process trains it" in capsys.readouterr().out
    assert result.statuses[LABELS[1]] == "running"
    assert result.exit_code == 1


def test_a_process_that_is_dying_is_waited_for(tmp_path, monkeypatch):
    sweep().run(tmp_path, Launcher(**{LABELS[1]: "failed"}))
    monkeypatch.setattr(running, "WAIT_S", 60)
    held, taken = RunDirectory(tmp_path / LABELS[1]), threading.Event()

    def die_soon():
        with held.hold():
            taken.set()
            threading.Event().wait(0.3)

    thread = threading.Thread(target=die_soon)
    thread.start()
    taken.wait()
    launcher = Launcher()
    sweep().run(tmp_path, launcher)
    thread.join()
    assert launcher.ran() == [LABELS[1]]


def test_a_run_that_another_process_has_taken_meanwhile_keeps_its_record(tmp_path, capsys):
    held = RunDirectory(tmp_path / LABELS[3])
    holds = []

    def take(job):
        if job.name == LABELS[2]:
            holds.append(held.hold())
            holds[0].__enter__()
        if job.name == LABELS[3]:
            held.set_status("running", step=77)

    result = sweep().run(tmp_path, Launcher(take, **{LABELS[3]: "refused"}))
    holds[0].__exit__(None, None, None)
    assert result.statuses[LABELS[3]] == "running"
    assert held.status()["step"] == 77
    assert f"{held.path}: another process trains it" in capsys.readouterr().out


def test_a_run_that_another_sweep_has_ended_meanwhile_keeps_its_record(tmp_path):
    def end(job):
        if job.name == LABELS[2]:
            RunDirectory(tmp_path / LABELS[3]).set_status("success", step=77)

    result = sweep().run(tmp_path, Launcher(end, **{LABELS[3]: "ended"}))
    assert result.statuses == dict.fromkeys(LABELS, "success")
    record = RunDirectory(tmp_path / LABELS[3]).status()
    assert (record["step"], "error" in record) == (77, False)


def test_what_the_launcher_had_to_kill_is_interrupted(tmp_path):
    class Killed(Launcher):
        """Is interrupted while its second job runs, and has to kill it."""

        def run(self, jobs, on_start=None, on_finish=None):
            super().run(jobs[:1], on_start, on_finish)
            on_start(jobs[1])
            RunDirectory(jobs[1].log.parent).set_status("running", step=1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep().run(tmp_path, Killed())
    assert statuses(tmp_path) == dict(zip(LABELS, ["success", "interrupted", "queued", "queued"], strict=True))
    assert RunDirectory(tmp_path / LABELS[1]).status()["error"] == "it was killed when the sweep was interrupted"


def test_sweeps_that_share_runs_do_not_mix_records(tmp_path):
    options = {"collapse": "nocd"}
    alone = load("smoke", groups="3", kl_type="low_var_kl", **options)
    first = Launcher()
    alone.run(tmp_path, first)
    assert len(first.jobs) == 4
    wrapper = Launcher()
    result = load("smoke-all", **options).run(tmp_path, wrapper)
    assert len(wrapper.jobs) == 160  # those of the first sweep are done
    assert set(result.statuses.values()) == {"success"}
    logs = tmp_path / "logs" / "smoke_test_top_p"
    points = {home: loads((logs / home / "sweep.yaml").read_text())["points"] for home in ("low_var_kl_nocd", "nocd")}
    assert {home: len(found) for home, found in points.items()} == {"low_var_kl_nocd": 4, "nocd": 164}
    shared = {point["label"]: point["path"] for point in points["nocd"]}
    assert all(shared[point["label"]] == point["path"] for point in points["low_var_kl_nocd"])


def test_a_sweep_of_other_steps_over_the_same_directories_does_not_speak_for_the_first(tmp_path):
    longer = sweep(overrides={"trainer.steps": 9})
    result = {}

    def take_over(job):
        if job.name == LABELS[0]:
            result["longer"] = longer.run(tmp_path, Launcher(), home_free(tmp_path))

    def home_free(root):
        (root / ".lock").unlink()  # as if its home were another directory
        return Options()

    result["first"] = sweep().run(tmp_path, Launcher(take_over))
    assert set(result["longer"].statuses.values()) == {"success"}
    assert set(result["first"].statuses.values()) == {"not started"}
    hashes = {point.label: point.hash for point in longer.points()}
    for label in LABELS:
        assert RunDirectory(tmp_path / label).status()["hash"] == hashes[label]


# --- the record of the sweep ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kl", {"experiment": "tiny-sokoban", "rollout_filter_include_zero": False}),
        ("top-p", {"experiment": "tiny-sokoban", "steps": 7}),
        ("entropy", {}),
        ("smoke", {"groups": "3,4", "rollout_filter_strategy": "top_k", "collapse": "nocd"}),
        ("demo", {}),
    ],
)
def test_the_record_of_a_named_sweep_is_that_sweep(tmp_path, name, options):
    made = load(name, **options)
    points = {point.label: (point.place, point.hash, point.values) for point in made.prepared(tmp_path)}
    text = record_of(made, tmp_path)
    (tmp_path / "copy.yaml").write_text(text)
    again = load(tmp_path / "copy.yaml")
    found = {point.label: (point.place, point.hash, point.values) for point in again.prepared(tmp_path)}
    assert [*found] == [*points]
    for label, (place, digest, values) in points.items():
        there = found[label]
        assert (there[1], there[2]) == (digest, values)
        assert (there[0].run, there[0].name, there[0].summary) == (place.run, place.name, place.summary)
    assert again.project == made.project


def record_of(made, root) -> str:
    from uncollapse.core.yaml import dumps

    return dumps(made.record(made.prepared(root)))


def test_a_sweep_is_resumed_from_its_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = load("kl", kl_values="0,0.01")
    home = made.run(launcher=Launcher(**{"001": "failed"})).home
    again = Launcher()
    result = load(home / "sweep.yaml").run(launcher=again)
    assert again.ran() == ["001"]
    assert result.home == home
    assert not list(home.glob("sweep.yaml.*"))


def test_one_sweep_however_it_is_told(tmp_path):
    from click.testing import CliRunner
    from uncollapse.cli.main import main

    file = tmp_path / "it.yaml"
    file.write_text(
        "experiment: tiny-sokoban\n"
        "axes:\n"
        "  kl.estimator: [kl, mse, low_var_kl]\n"
        "  filter.select: [nofilter, top_p(0.9), min_p(0.2)]\n"
        "  seed: 0..2\n"
        "set: {trainer.steps: 5}\n"
    )
    words = ["sweep", "show", "custom", "-e", "tiny-sokoban", "--axis", "kl.estimator=kl,mse,low_var_kl", "--json"]
    words += ["--axis", "filter.select=nofilter,top_p(0.9),min_p(0.2)", "--axis", "seed=0..2", "--steps", "5"]
    shown = json.loads(CliRunner().invoke(main, words).stdout)
    axes = {
        "kl.estimator": ["kl", "mse", "low_var_kl"],
        "filter.select": ["nofilter", {"name": "top_p", "value": 0.9}, "min_p(0.2)"],
        "seed": range(3),
    }
    python = Sweep("tiny-sokoban", axes, overrides={"trainer.steps": 5}).points()
    assert len(python) == 27
    assert [point.hash for point in load(file).points()] == [point.hash for point in python]
    assert [*shown] == [point.label for point in load(file).points()]
    assert [keys["seed"] for keys in shown.values()] == [str(point.experiment.seed) for point in python]
    loaded = {point.label: point.hash for point in load(file).points()}
    done = CliRunner().invoke(main, [word for word in words if word != "--json"])
    assert all(f"{label}  [{digest}]" in done.output for label, digest in loaded.items())


def test_zipped_axes_lists_and_exclusions_in_a_file(tmp_path):
    file = tmp_path / "it.yaml"
    file.write_text(
        "experiment: {environment: sokoban, model: {path: some/model}}\n"
        "axes:\n"
        "  kl.coef,entropy_coeff: [[0, 0.1], [0.1, 0]]\n"
        "  setting: [{trainer.lr: 1.0e-6}, {trainer.lr: 2.0e-6, seed: 5}]\n"
        "  collapse: [[], [empty_filter]]\n"
        "exclude:\n"
        "  - {kl.coef: 0.1, trainer.lr: 2.0e-6}\n"
        "  - {collapse: [], kl.coef: 0}\n"
    )
    points = load(file).points()
    found = [(p.experiment.kl.coef, p.experiment.trainer.lr, len(p.experiment.collapse)) for p in points]
    assert found == [(0.0, 1e-6, 1), (0.0, 2e-6, 1), (0.1, 1e-6, 0), (0.1, 1e-6, 1)]
    assert [point.experiment.entropy.coef for point in points] == [0.1, 0.1, 0.0, 0.0]
    assert points[1].experiment.seed == 5


def test_resources_of_an_engine_are_part_of_the_record(tmp_path):
    """The hashes that sweep.yaml states are those of the runs, also where an engine takes the sweep's resources."""
    from uncollapse.core.registry import registry

    plugin = tmp_path / "engine.py"
    plugin.write_text(
        "import attrs\n"
        "from uncollapse import hookimpl\n"
        "from uncollapse.plugins.rollout.engine_hf import HfEngine as Base\n"
        "@attrs.frozen\n"
        "class Engine(Base):\n"
        "    gpu_memory_utilization: float = 0.9\n"
        "@hookimpl\n"
        "def register_rollout_engines(register):\n"
        "    register('mine', Engine)\n"
    )
    registry().load_file(plugin)
    try:
        made = Sweep({**BASE, "rollout": {"engine": "mine"}}, AXES, name="e", engine={"gpu_memory_utilization": 0.5})
        points = made.prepared(tmp_path)
        assert {p.experiment.rollout.engine.params["gpu_memory_utilization"] for p in points} == {0.5}
        (tmp_path / "copy.yaml").write_text(record_of(made, tmp_path))
        again = load(tmp_path / "copy.yaml").prepared(tmp_path)
        assert [point.hash for point in again] == [point.hash for point in points]
    finally:
        registry.cache_clear()


@pytest.mark.parametrize("root", ["file/below", "file"])
def test_a_root_that_cannot_be_written(tmp_path, root):
    (tmp_path / "file").write_text("")
    launcher = Launcher()
    with pytest.raises(RequestError, match="directory cannot be written"):
        sweep().run(tmp_path / root, launcher)
    assert launcher.jobs == []


# --- uploads --------------------------------------------------------------------------------------------------------


def test_a_failing_upload_is_recorded_told_and_tried_again_and_fails_nothing(tmp_path, monkeypatch, capsys):
    from uncollapse.plugins.tracking import wandb_sync

    def offline(job):
        directory = job.log.parent / "wandb" / "offline-run-1"
        directory.mkdir(parents=True)
        (directory / "run-1.wandb").write_bytes(b"x")

    refuses = [sys.executable, "-c", "raise SystemExit('no network')"]
    uploads = [sys.executable, "-c", "import sys; open(sys.argv[-1] + '/run-1.wandb.synced', 'w')"]

    def run(command, when):
        monkeypatch.setattr(running, "Syncer", lambda when: wandb_sync.Syncer(when, tuple(command)))
        result = sweep().run(tmp_path, Launcher(offline), Options(wandb_sync=when))
        records = [RunDirectory(tmp_path / label).status() for label in LABELS]
        assert {record["status"] for record in records} == {"success"}
        return result.exit_code, [record.get("wandb") for record in records]

    failed = {"offline": 1, "waiting": 1, "sync_error": "no network"}
    assert run(refuses, "each") == (0, [failed] * 4)
    assert f"{tmp_path / LABELS[0]}: not uploaded to W&B: no network" in capsys.readouterr().out
    assert run(uploads, "never") == (0, [failed] * 4)
    assert run(uploads, "end") == (0, [{"offline": 1, "waiting": 0}] * 4)
    assert "not uploaded" not in capsys.readouterr().out


def test_a_run_that_another_sweep_has_ended_meanwhile_stays_as_it_ended(tmp_path):
    class Late(components.Launcher):
        """Each job finds that its run has ended, as ``train --resume`` does, and changes nothing."""

        def describe(self):
            return []

        def run(self, jobs, on_start=None, on_finish=None):
            for job, status in zip(jobs, ("success", "stopped:empty_filter"), strict=True):
                RunDirectory(job.log.parent).set_status(status)
                on_start(job)
                on_finish(job, 0 if status == "success" else 3)
            return []

    base = {"environment": "sokoban", "model": {"path": "some/model"}}
    result = Sweep(base, {"kl.coef": [0, 0.01]}, name="shared").run(tmp_path, Late())
    assert list(result.statuses.values()) == ["success", "stopped:empty_filter"]
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experiment: tiny-sokoban\naxes: [seed]", "axes = .*must be a mapping"),
        ("experiment: tiny-sokoban\naxes: {}\nset: foo", "set = 'foo': must be a mapping"),
        ("experiment: tiny-sokoban\naxes: {}\nname: 3", "name = 3: must be text"),
        ("experiment: tiny-sokoban\naxes: {}\nexclude: {seed: 0}", "exclude = .*must be a list"),
        ("experiment: tiny-sokoban\naxis: {seed: [0]}", "did you mean 'axes'"),
        ("experiment: tiny-sokoban", "needs axes or cases"),
        ("experiment: tiny-sokoban\ncases: [{label: report, overrides: {}}]", "one directory"),
        (f"experiment: tiny-sokoban\ncases: [{{label: {'x' * 130}, overrides: {{}}}}]", "130 characters"),
    ],
)
def test_sweep_files_that_cannot_run(tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(RequestError, match=message):
        load(tmp_path / "s.yaml").run(tmp_path / "root", Launcher())
    assert not (tmp_path / "root").exists()
