import errno
import json
import math
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from uncollapse.core import plugins
from uncollapse.core.compose.config import compose, to_dict
from uncollapse.core.errors import RequestError, RunError
from uncollapse.core.files import replace_text
from uncollapse.core.registry import Registry
from uncollapse.core.runs import checkpoints, status
from uncollapse.core.runs.directory import RunDirectory, build_manifest
from uncollapse.core.runs.repair import repair, rewind
from uncollapse.core.runs.resumption import resumption
from uncollapse.core.runs.status import Status, stopped_by

FAKE = Path(__file__).parents[1] / "fake_components.py"
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
    assert caught.value.fix == "continue it with --resume (resume=True in Python), or give another run directory"
    other = CONFIG | {"kl": CONFIG["kl"] | {"coef": 0.5}, "environment": "bandit", "trackers": []}
    with pytest.raises(RequestError, match="holds a run of another experiment") as caught:
        RunDirectory.create(run.path, other, {})
    assert "kl.coef: 0.0 there, 0.5 asked for" in str(caught.value)
    assert "environment: {name: sokoban," in str(caught.value)
    assert "trackers" not in str(caught.value)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


def test_resume_wants_the_same_experiment(run, tmp_path):
    assert resumption(run.path, CONFIG | {"trackers": [], "plugins": ["/elsewhere/x.py"]}).run == run
    with pytest.raises(RequestError, match="seed: 0 there, 1 asked for"):
        resumption(run.path, CONFIG | {"seed": 1})
    with pytest.raises(RequestError, match="no run directory"):
        resumption(tmp_path / "nothing", CONFIG)


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
    for text in ('{"status"', "5", "null", '{"status": 5}', '{"status": "done"}', '{"step": "3"}', '{"metrics": []}'):
        (run.path / "status.json").write_text(text)
        with pytest.raises(RequestError, match="status is damaged") as caught:
            run.status()
        assert "status.json" in caught.value.where
    (run.path / "status.json").unlink()
    assert resumption(run.path, CONFIG).run.status() == {}


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


def recorded(run, steps, **status):
    for step in range(steps + 1):
        run.append_metrics(step, {"reward": step})
    run.set_status("success", step=steps, first_step=0, **status)
    return run.metrics_file.read_bytes().splitlines(keepends=True)


def test_a_run_goes_on_after_the_records_of_its_checkpoint(run):
    recorded(run, 4)
    run.set_status("running")
    run.set_status("running")
    with run.checkpoint(5, {"metrics": {"reward": 5.0, "bad": None}}):
        pass
    run.append_metrics(5, {"reward": 5.0, "bad": None, "timing_s/total": 2.0})
    run.append_metrics(6, {"reward": 6.0})
    rewind(run, run.latest())
    assert [record["step"] for record in run.metrics()] == [0, 1, 2, 3, 4, 5]
    assert run.metrics()[-1] == {"step": 5, "reward": 5.0, "bad": None, "timing_s/total": 2.0}
    run.metrics_file.write_bytes(b"".join(run.metrics_file.read_bytes().splitlines(keepends=True)[:-1]))
    rewind(run, run.latest())
    assert run.metrics()[-1] == {"step": 5, "reward": 5.0, "bad": None}
    run.set_status("interrupted", step=None)
    rewind(run, None)
    assert run.metrics() == []


DAMAGE = {
    "cut in the last line": (lambda lines: [*lines[:-1], lines[-1][:-5]], "the record of step 4 is missing", ""),
    "the last line gone": (lambda lines: lines[:-1], "the record of step 4 is missing", ""),
    "the last lines gone": (lambda lines: lines[:-2], "the records of steps 3 to 4 are missing", ""),
    "all gone": (lambda lines: [], "the records of steps 0 to 4 are missing", ""),
    "the first line gone": (lambda lines: lines[1:], "the record of step 0 is missing", ":1"),
    "a line in the middle gone": (lambda lines: [*lines[:2], *lines[3:]], "step 3 follows step 1", ":3"),
    "cut in the middle": (lambda lines: [*lines[:2], lines[2][:9] + b"\n", *lines[3:]], "it is no JSON", ":3"),
    "zeros": (lambda lines: [*lines[:2], b"\0" * 20 + b"\n", *lines[3:]], "it is no JSON", ":3"),
    "a line twice": (lambda lines: [*lines[:3], *lines[2:]], "step 2 stands there twice", ":4"),
    "lines in another order": (lambda lines: [*lines[:2], lines[3], lines[2], lines[4]], "step 3 follows step 1", ":3"),
    "a number": (lambda lines: [*lines[:2], b"5\n", *lines[3:]], "it is no object", ":3"),
    "no step": (lambda lines: [*lines[:2], b"{}\n", *lines[3:]], "it has no step", ":3"),
    "a word for a number": (
        lambda lines: [*lines[:2], b'{"step": 2, "reward": "x"}\n', *lines[3:]],
        "reward is no number",
        ":3",
    ),
    "a step too many": (lambda lines: [*lines, b'{"step": 5}\n'], "they go on to step 5", ""),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_records_are_named_and_restored_from_the_checkpoint(run, name):
    damage, what, where = DAMAGE[name]
    lines = recorded(run, 4)
    assert run.damaged_records() is None
    with run.checkpoint(4, {"metrics": {"reward": 4}}):
        pass
    damaged = b"".join(damage(lines))
    run.metrics_file.write_bytes(damaged)
    with pytest.raises(RunError, match=what) as caught:
        run.metrics()
    assert caught.value.where == f"{run.metrics_file}{where}"
    assert "its records are restored from step_4" in caught.value.fix
    assert not run.has_ended()
    assert what in repair(run)
    assert run.metrics_file.read_bytes() == b"".join(lines)
    assert (run.path / "metrics.jsonl.damaged").read_bytes() == damaged
    assert (run.status()["status"], run.has_ended()) == ("success", True)
    assert repair(run) == ""


@pytest.mark.parametrize(
    ("saved", "status"), [(2, {"status": "interrupted", "step": 2}), (0, {"status": "interrupted"})]
)
def test_a_run_that_went_on_after_its_checkpoint_is_to_be_resumed_there(run, saved, status):
    lines = recorded(run, 4)
    if saved:
        with run.checkpoint(saved, {"metrics": {"reward": saved}}):
            pass
    damaged = b"".join([*lines[:1], b"{\n", *lines[2:]])
    run.metrics_file.write_bytes(damaged)
    fix = run.damaged_records().fix
    assert ("the steps after 2 are trained again" if saved else "trained again from the start") in fix
    repair(run)
    assert run.metrics_file.read_bytes() == b"".join(lines[: saved + 1] if saved else [])
    assert {key: value for key, value in run.status().items() if key in ("status", "step")} == status
    assert "it is no JSON" in run.status()["error"]
    assert (run.path / "metrics.jsonl.damaged").read_bytes() == damaged


def test_a_run_that_is_trained_may_be_ahead_of_its_status(run):
    recorded(run, 2)
    run.set_status("running", step=1)
    with run.metrics_file.open("a") as stream:
        stream.write('{"step": 3, "rew')
    assert [record["step"] for record in run.metrics()] == [0, 1, 2]


def test_a_step_is_recorded_once(run):
    run.append_metrics(0, {"reward": 1.0, "note" * 50_000: 1.0})
    for value in (2.0, 3.0):
        run.append_metrics(1, {"reward": value})
    assert [record["reward"] for record in run.metrics()] == [1.0, 2.0]
    run.append_metrics(2, {"note" * 50_000: 1.0})
    run.append_metrics(2, {"reward": 3.0})
    assert [record["step"] for record in run.metrics()] == [0, 1, 2]


def test_damaged_episodes_are_named(run):
    run.write_rollouts(1, [{"text": "a"}, {"text": "b"}])
    file = run.path / "rollouts" / "step_1.jsonl"
    whole = file.read_bytes()
    for content, where in ((whole[:-4], 2), (b"5\n", 1), (b'{"text": "a"}\n{"te\n', 2)):
        file.write_bytes(content)
        with pytest.raises(RunError, match="an episode is damaged") as caught:
            run.read_rollouts(1)
        assert caught.value.where == f"{file}:{where}"


@pytest.mark.parametrize("text", ["", "5", "[]", "- a", "null", "\udc80"])
def test_a_damaged_configuration_is_explained(run, text):
    run.config_file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RequestError, match="configuration is damaged") as caught:
        run.read_config()
    assert caught.value.where == str(run.config_file)


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
    assert (state["step"], state["rng"], list(state["files"])) == (100, [1, 2], ["metrics.jsonl", "model/weights"])
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
        (lambda path: (path / "state.json").write_text('{"step": 2, "files": []}'), "state.json is not readable"),
        (lambda path: (path / "state.json").write_text('{"step": 2, "files": {"a": 5}}'), "state.json is not readable"),
        (lambda path: (path / "state.json").write_text("5"), "state.json is not readable"),
        (lambda path: (path / "state.json").write_text('{"step": 3, "files": {"a": {"size": 1}}}'), "it is of step 3"),
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
        "from uncollapse.core.runs.directory import RunDirectory\n"
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
        "import sys, uncollapse.core.compose.config, uncollapse.core.runs.directory, uncollapse.plugins.sweeps.points\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_checkpoint_that_is_read_stays_and_one_that_is_gone_is_said(run):
    for step in (1, 2):
        save(run, step)
    first = run.path / "checkpoints" / "step_1"
    with checkpoints.reading(first), checkpoints.reading(first):
        save(run, 3, keep=1)
        assert [path.name for path in run.checkpoints()] == ["step_1", "step_3"]
    save(run, 4, keep=1)
    assert [path.name for path in run.checkpoint_directory.iterdir()] == ["step_4"]
    with pytest.raises(RequestError, match="the run has deleted this checkpoint meanwhile"), checkpoints.reading(first):
        pass


def test_of_a_checkpoint_that_is_a_link_the_link_alone_is_deleted(run, tmp_path):
    for step in (1, 2):
        save(run, step)
    moved = tmp_path / "moved"
    (run.path / "checkpoints" / "step_1").rename(moved)
    (run.path / "checkpoints" / "step_1").symlink_to(moved)
    save(run, 3, keep=1)
    assert [path.name for path in run.checkpoint_directory.iterdir()] == ["step_3"]
    assert (moved / "model" / "weights").exists()
    (run.path / "checkpoints" / "step_4").symlink_to(tmp_path / "nowhere")
    save(run, 4)
    assert run.latest().name == "step_4" and not run.latest().is_symlink()


@pytest.mark.parametrize("pid", ["of nobody", "of this process"])
def test_what_a_killed_process_was_writing_is_deleted(run, pid):
    save(run, 1)
    number = os.getpid() if pid == "of this process" else 2**22 + 1
    leftovers = [run.path / f"status.json.{number}.tmp", run.path / "rollouts" / f"step_1.jsonl.{number}.tmp"]
    stays = [
        run.path / f"status.json.{os.getppid()}.tmp",
        run.path / "mine.tmp",
        run.path / "rollouts" / "step_1.jsonl",
    ]
    (run.path / "rollouts").mkdir()
    for file in leftovers + stays:
        file.write_text("half")
    (run.checkpoint_directory / "step_2.tmp" / "model").mkdir(parents=True)
    run.remove_leftovers()
    assert not any(file.exists() for file in leftovers)
    assert all(file.exists() for file in stays)
    assert [path.name for path in run.checkpoint_directory.iterdir()] == ["step_1"]


def test_the_time_between_attempts_does_not_count(run, monkeypatch):
    clock = iter([0, 3, 9])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(status, "now", lambda: (start + timedelta(seconds=next(clock))).isoformat())
    run.begin()  # at 0 s
    assert status.seconds(run.status(), start + timedelta(seconds=2)) == 2
    run.set_status("running", step=1)  # at 3 s
    run.set_status("running", step=2)  # at 9 s, then it is killed
    assert status.seconds(run.status()) == 9
    monkeypatch.setattr(status, "now", lambda: (start + timedelta(seconds=49)).isoformat())
    run.begin()
    assert status.seconds(run.status(), start + timedelta(seconds=60)) == 9 + 11
    monkeypatch.setattr(status, "now", lambda: (start + timedelta(seconds=71)).isoformat())
    run.set_status("success")
    assert status.seconds(run.status(), start + timedelta(seconds=999)) == 9 + 22
    assert (run.status()["attempts"], run.status()["started"]) == (2, start.isoformat())
    assert status.seconds({}) is None


def test_a_status_is_one_of_a_few_words_and_of_a_stopped_run_names_the_detector():
    written = ["queued", "running", "success", "stopped:a:b", "failed", "interrupted"]
    assert [Status.of(text) for text in written] == list(Status)
    assert stopped_by("kl_runaway") == "stopped:kl_runaway"
    assert json.loads(json.dumps({"status": Status.FAILED})) == {"status": "failed"}
    for wrong in ("", "done", "stopped", "stopped:", "failed:", "failed:x", "Success", "success "):
        with pytest.raises(ValueError, match="is no status of a run"):
            Status.of(wrong)
