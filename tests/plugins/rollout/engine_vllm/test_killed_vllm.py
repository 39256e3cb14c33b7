"""Runs of ``uncollapse train`` that sample with vLLM and lose the engine's process, or are killed themselves."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_engine_vllm import WORDS, model
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps
from uncollapse.plugins.rollout.engine_vllm.pack_weights import SHARED

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SHARED.is_dir(), reason="there is no folder in memory here")]
STEPS = 6


class Run:
    """The bandit, played by a model of heads that vLLM's CPU engine knows, trained by the command line."""

    def __init__(self, directory: Path, bandit) -> None:
        self.directory, self.path = directory, directory / "run"
        model().save_pretrained(directory / "model")
        WORDS.save_pretrained(directory / "model")
        experiment = {
            **bandit,
            "model": {**bandit["model"], "path": str(directory / "model")},
            "rollout": {**bandit["rollout"], "engine": "vllm(kv_cache_gib=0.25)"},
            "advantage": "grpo",
            "trainer": {**bandit["trainer"], "steps": STEPS, "save_every": 2},
        }
        (directory / "bandit.yaml").write_text(dumps(experiment))

    def start(self, *options: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "uncollapse.cli.main", "train", "bandit.yaml", "--run-dir", str(self.path)]
        with (self.directory / "errors.txt").open("w") as errors:
            return subprocess.Popen([*words, *options], cwd=self.directory, stdout=errors, stderr=errors, text=True)

    def errors(self) -> list[str]:
        lines = (self.directory / "errors.txt").read_text().splitlines()
        return [line for line in lines if line.startswith(("error:", "Traceback"))]

    def step(self) -> int:
        return RunDirectory(self.path).status().get("step", 0) if self.path.is_dir() else 0


def wait(condition, seconds=240.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def folders() -> set[Path]:
    return set(SHARED.glob("uncollapse-*"))


@pytest.fixture
def run(tmp_path, bandit):
    return Run(tmp_path, bandit)


def test_a_run_whose_engine_is_killed_fails_and_is_resumed_to_its_end(run):
    before = folders()
    trainer = run.start()
    wait(lambda: run.step() >= 2 or trainer.poll() is not None)
    family = psutil.Process(trainer.pid).children(recursive=True)
    (engine,) = (child for child in family if "EngineCore" in child.name() or "EngineCore" in " ".join(child.cmdline()))
    engine.kill()
    assert trainer.wait(timeout=60) == 1
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert folders() == before

    directory = RunDirectory.open(run.path)
    failed, (message,) = directory.status(), run.errors()
    assert failed["status"] == "failed"
    assert 2 <= failed["step"] < STEPS
    assert message == "error: the vLLM engine's process has died"
    assert failed["error"].startswith(message.removeprefix("error: "))
    assert "continue from the last checkpoint with --resume" in failed["error"]
    kept = int(directory.latest().name.removeprefix("step_"))
    records = directory.metrics()
    assert [record["step"] for record in records] == list(range(failed["step"] + 1))

    resumed, family = run.start("--resume"), set()
    wait(lambda: family.update(psutil.Process(resumed.pid).children(recursive=True)) or resumed.poll() is not None)
    assert resumed.returncode == 0, (run.directory / "errors.txt").read_text()
    assert psutil.wait_procs(list(family), timeout=10)[1] == []
    assert run.errors() == []
    ended, all_records = directory.status(), directory.metrics()
    assert (ended["status"], ended["step"], ended["attempts"]) == ("success", STEPS, 2)
    assert "error" not in ended
    assert [record["step"] for record in all_records] == list(range(STEPS + 1))
    assert all_records[: kept + 1] == records[: kept + 1]  # what the checkpoint covers stands as it was
    assert all("actor/pg_loss" in record for record in all_records[1:])
    assert folders() == before


def test_a_trainer_that_is_killed_leaves_neither_processes_nor_files_in_memory(run):
    before = folders()
    trainer = run.start()
    wait(lambda: run.step() >= 1 or trainer.poll() is not None)
    family = psutil.Process(trainer.pid).children(recursive=True)
    assert len(folders() - before) == 1
    trainer.kill()
    trainer.wait()
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert folders() == before
