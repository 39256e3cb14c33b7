import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from uncollapse.core import checkpoints, plugins
from uncollapse.core.config import compose, to_dict
from uncollapse.core.errors import RequestError, RunError
from uncollapse.core.files import replace_text
from uncollapse.core.registry import Registry
from uncollapse.core.runs import RunDirectory, build_manifest

FAKE = Path(__file__).with_name("fake_components.py")
REGISTRY = Registry([plugins.load_file(FAKE)])
EXPERIMENT = compose({"environment": "sokoban", "model": {"path": "m"}}, registry=REGISTRY)
CONFIG = to_dict(EXPERIMENT)


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", CONFIG, {"seeds": {}})


def save(run, step, keep=0, **files):
    with run.checkpoint(step, {"rng": [1, 2]}, keep=keep) as directory:
        (directory / "model").mkdir()
        for name, content in (files or {"weights": "w" * 100}).items():
            (directory / "model" / name).write_text(content)


# --- creating -------------------------------------------------------------------------------------------------------


def test_created_run_is_reloadable(run):
    assert run.read_config() == CONFIG
    assert compose(run.config_file, registry=REGISTRY) == EXPERIMENT
    assert run.manifest() == {"seeds": {}}
    assert run.status()["status"] == "queued"
    assert RunDirectory.open(run.path) == run


def test_queued_run_may_be_created_again_and_another_may_not(run):
    RunDirectory.create(run.path, CONFIG, {"seeds": {"seed": 1}})
    assert run.manifest() == {"seeds": {"seed": 1}}
    run.set_status("running")
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(RequestError, match=r"there is a run of this experiment already \(running\)") as caught:
        RunDirectory.create(run.path, CONFIG, {})
    assert "--resume" in str(caught.value)
    other = CONFIG | {"kl": CONFIG["kl"] | {"coef": 0.5}, "environment": "bandit", "trackers": []}
    with pytest.raises(RequestError, match="holds a run of another experiment") as caught:
        RunDirectory.create(run.path, other, {})
    assert "kl.coef: 0.0 there, 0.5 asked for" in str(caught.value)
    assert "environment: {name: sokoban," in str(caught.value)
    assert "trackers" not in str(caught.value)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


def test_resume_wants_the_same_experiment(run, tmp_path):
    assert RunDirectory.resume(run.path, CONFIG | {"trackers": [], "plugins": ["/elsewhere/x.py"]}) == run
    with pytest.raises(RequestError, match="seed: 0 there, 1 asked for"):
        RunDirectory.resume(run.path, CONFIG | {"seed": 1})
    with pytest.raises(RequestError, match="no run directory"):
        RunDirectory.resume(tmp_path / "nothing", CONFIG)


def test_directory_with_other_files_becomes_a_run(tmp_path):
    (tmp_path / "stdout.log").write_text("x")
    RunDirectory.create(tmp_path, CONFIG, {})
    assert (tmp_path / "stdout.log").read_text() == "x"


def test_directory_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RequestError, match=r"directory cannot be written: (File exists|Not a directory)"):
            RunDirectory.create(path, CONFIG, {})
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RequestError, match="directory cannot be written: Permission denied"):
        RunDirectory.create(tmp_path, CONFIG, {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- status ---------------------------------------------------------------------------------------------------------


def test_status_keeps_times_and_fields(run):
    run.set_status("running")
    first = run.status()
    assert first["pid"] == os.getpid()
    assert first["host"]
    assert first["started"].endswith("+00:00")
    run.set_status("running", step=3, metrics={"reward": math.nan, "kl": 0.5})
    run.set_status("failed", error="out of memory")
    failed = run.status()
    assert failed["status"] == "failed"
    assert failed["error"] == "out of memory"
    assert failed["metrics"] == {"reward": None, "kl": 0.5}
    assert (failed["started"], failed["step"]) == (first["started"], 3)
    assert failed["ended"] >= failed["started"]
    run.set_status("running", error=None)
    again = run.status()
    assert again["started"] == first["started"]
    assert "ended" not in again
    assert "error" not in again
    run.set_status("stopped:low_validation_success")
    assert run.status()["status"] == "stopped:low_validation_success"
    with pytest.raises(ValueError, match="'done' is no status"):
        run.set_status("done")


def test_damaged_status_is_explained(run):
    (run.path / "status.json").write_text('{"status"')
    with pytest.raises(RequestError, match="status is damaged") as caught:
        run.status()
    assert "status.json" in caught.value.where
    (run.path / "status.json").unlink()
    assert RunDirectory.resume(run.path, CONFIG).status() == {}


def test_replacing_a_file_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    replace_text(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# --- metrics, rollouts, log -----------------------------------------------------------------------------------------


def test_metrics_are_one_object_per_step(run):
    run.append_metrics(0, {"reward": 1.5, "bad": math.nan, "worse": math.inf})
    run.append_metrics(1, {"reward": 2, "step": 99})
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == (
        [{"step": 0, "reward": 1.5, "bad": None, "worse": None}, {"step": 1, "reward": 2.0}]
    )
    assert run.metrics() == [json.loads(line) for line in lines]


def test_a_cut_off_last_record_is_tolerated_and_mended(run):
    assert run.metrics() == []
    run.append_metrics(1, {"reward": 1.0})
    with run.metrics_file.open("a") as stream:
        stream.write('{"step": 2, "rew')
    assert [record["step"] for record in run.metrics()] == [1]
    run.append_metrics(2, {"reward": 2.0})
    assert run.metrics() == [{"step": 1, "reward": 1.0}, {"step": 2, "reward": 2.0}]


def test_a_damaged_record_in_the_middle_is_an_error(run):
    run.metrics_file.write_text('{"step": 1}\n{"step":\n{"step": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl:2"):
        run.metrics()


def test_truncating_drops_what_is_done_again(run):
    for step in range(5):
        run.append_metrics(step, {"reward": step})
    run.truncate_metrics(2)
    assert [record["step"] for record in run.metrics()] == [0, 1, 2]
    run.truncate_metrics(2, {"reward": 9.0})
    assert [record["reward"] for record in run.metrics()] == [0, 1, 2]
    run.truncate_metrics(3, {"reward": 3.0, "bad": None})
    assert run.metrics()[-1] == {"step": 3, "reward": 3.0, "bad": None}


def test_resuming_without_a_checkpoint_starts_the_metrics_anew(run):
    run.append_metrics(1, {"reward": 1.0})
    RunDirectory.resume(run.path, CONFIG)
    assert run.metrics() == []


def test_rollouts_are_texts_of_any_kind(run):
    records = [{"text": "推 \udc80 \u2028 end", "rewards": [1.0, math.nan], "path": Path("x")}, {"text": ""}]
    run.write_rollouts(3, records)
    assert run.read_rollouts(3) == [{"text": "推 \udc80 \u2028 end", "rewards": [1.0, None], "path": "x"}, {"text": ""}]
    assert "推" in (run.path / "rollouts" / "step_3.jsonl").read_text("utf-8")
    assert run.read_rollouts(4) == []


def test_log_has_times(run):
    run.log("resuming\n")
    run.log("from step_2")
    lines = (run.path / "log.txt").read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["resuming", "from step_2"]
    assert all(line.split()[0].endswith("+00:00") for line in lines)


# --- checkpoints ----------------------------------------------------------------------------------------------------


def test_checkpoints_are_listed_in_order_and_hold_their_state(run):
    for step in (10, 2, 100):
        save(run, step)
    assert [path.name for path in run.checkpoints()] == ["step_2", "step_10", "step_100"]
    assert run.latest() == run.path / "checkpoints" / "step_100"
    assert checkpoints.step_of(run.latest()) == 100
    state = json.loads((run.latest() / "state.json").read_text())
    assert (state["step"], state["rng"], list(state["files"])) == (100, [1, 2], ["model/weights"])
    assert run.broken_checkpoints() == []


def test_pruning_keeps_the_newest(run):
    for step in range(1, 5):
        save(run, step, keep=2)
    assert [path.name for path in run.checkpoints()] == ["step_3", "step_4"]
    save(run, 5, keep=0)
    assert len(run.checkpoints()) == 3


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda path: (path / "model/weights").write_text("w" * 40),
            "model/weights has 40 bytes, and 100 were written",
        ),
        (lambda path: (path / "model/weights").write_text("v" * 100), "model/weights is not what was written"),
        (lambda path: (path / "model/weights").unlink(), "model/weights is missing"),
        (lambda path: (path / "state.json").unlink(), "state.json is missing"),
        (lambda path: (path / "state.json").write_text('{"fil'), "state.json is not readable"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_and_named(run, damage, reason):
    save(run, 1)
    save(run, 2)
    damage(run.path / "checkpoints" / "step_2")
    assert run.latest().name == "step_1"
    assert [(path.name, why) for path, why in run.broken_checkpoints()] == [("step_2", reason)]
    save(run, 3, keep=1)
    assert [path.name for path in run.checkpoints()] == ["step_3"]
    save(run, 2)
    assert run.broken_checkpoints() == []


def test_large_files_are_compared_by_size(run, monkeypatch):
    monkeypatch.setattr(checkpoints, "HASHED", 50)
    save(run, 1)
    weights = run.latest() / "model" / "weights"
    weights.write_text("v" * 100)
    assert run.latest()
    weights.write_text("v" * 99)
    assert run.latest() is None


def test_a_complete_checkpoint_is_never_overwritten(run):
    save(run, 1)
    with pytest.raises(RunError, match="there is a checkpoint of step 1 already"):
        save(run, 1, weights="other")
    assert (run.latest() / "model" / "weights").read_text() == "w" * 100
    assert not list(run.checkpoint_directory.glob("*.tmp"))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_passes_through_and_leaves_nothing(run, error):
    save(run, 1)

    def fail():
        with run.checkpoint(2, {}) as directory:
            (directory / "weights").write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    assert [path.name for path in run.checkpoint_directory.iterdir()] == ["step_1"]
    assert run.latest().name == "step_1"


def test_a_killed_save_leaves_the_earlier_checkpoint(run):
    save(run, 1)
    script = (
        "import os, signal, sys\n"
        "from uncollapse.core.runs import RunDirectory\n"
        "with RunDirectory(sys.argv[1]).checkpoint(2, {}) as directory:\n"
        "    (directory / 'weights').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(run.path)], check=False).returncode == -9
    assert run.latest().name == "step_1"
    assert [(path.name, why) for path, why in run.broken_checkpoints()] == [("step_2.tmp", "it was being written")]
    save(run, 2)
    assert run.latest().name == "step_2"
    assert run.broken_checkpoints() == []


# --- manifest -------------------------------------------------------------------------------------------------------


def test_manifest_says_what_a_run_was_made_with(run):
    manifest = build_manifest(EXPERIMENT, REGISTRY, gpus=["H200"])
    (plugin,) = manifest["plugins"]
    assert (plugin["name"], plugin["status"]) == ("fake_components", "loaded")
    assert len(plugin["sha256"]) == 64
    assert manifest["components"]["environment"] == (
        {"name": "sokoban", "plugin": "fake_components", "distribution": "", "version": "", "sha256": plugin["sha256"]}
    )
    assert manifest["seeds"] == {"seed": 0, "rollout.seed": 10000, "validation.seed": 123}
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "attrs" in manifest["versions"]
    assert manifest["hardware"]["gpus"] == ["H200"]
    assert manifest["hardware"]["cores"] >= 1
    assert manifest["hardware"]["memory_bytes"] > 2**20
    RunDirectory.create(run.path, CONFIG, manifest)
    assert run.manifest() == manifest


def test_core_imports_no_torch():
    script = (
        "import sys, uncollapse.core.config, uncollapse.core.runs, uncollapse.core.sweep\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
