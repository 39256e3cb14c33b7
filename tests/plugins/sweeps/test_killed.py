"""Sweeps of real processes that are killed, interrupted and started again: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

import pytest
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps, loads

pytestmark = pytest.mark.slow

STEPS = 8
HEARTBEAT = '''
import os

import attrs

from uncollapse import hookimpl
from uncollapse.core.components import Tracker


@attrs.frozen
class Heartbeat(Tracker):
    """A line per step with the process that did it, never taken back."""

    def start(self, run):
        return Session()


class Session:
    @hookimpl
    def step_finished(self, run, step, metrics):
        with (run.path / "heartbeat").open("a") as stream:
            stream.write(f"{os.getpid()} {step}\\n")


@hookimpl
def register_trackers(register):
    register("heartbeat", Heartbeat)
'''


class Case:
    """The KL sweep over two coefficients, in a directory of its own."""

    def __init__(self, directory: Path, bandit) -> None:
        self.directory, self.root = directory, directory / "root"
        directory.mkdir(exist_ok=True)
        (directory / "bandit.yaml").write_text(dumps({**bandit, "trackers": ["jsonl", "heartbeat"]}))
        (directory / "heartbeat.py").write_text(HEARTBEAT)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "uncollapse.cli.main", "sweep", "run", "kl", "-e", "bandit.yaml"]
        words += ["--plugin", "heartbeat.py", "--kl-values", "0,0.01", "--steps", str(STEPS), "--save-freq", "1"]
        words += ["--slots", "2", "--output-root", str(self.root), *options]
        with (self.directory / "output.txt").open("ab") as output:
            environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
            return subprocess.Popen(
                words, cwd=self.directory, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def finish(self, *options: str) -> int:
        return self.start(*options).wait(timeout=240)

    @property
    def home(self) -> Path:
        (file,) = self.root.glob("logs/*/nofilter/sweep.yaml")
        return file.parent

    @property
    def runs(self) -> dict[str, RunDirectory]:
        record = loads((self.home / "sweep.yaml").read_text())
        return {point["label"]: RunDirectory(self.home / point["path"]) for point in record["points"]}

    def output(self) -> str:
        return (self.directory / "output.txt").read_text()

    def processes(self) -> list[int]:
        """Those of the runs: their output goes to a file below the root."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._writes(entry)]

    def _writes(self, process: Path) -> bool:
        try:
            return (process / "fd" / "1").readlink().is_relative_to(self.root)
        except OSError:
            return False

    def wait_for_processes(self, sweep: subprocess.Popen[bytes]) -> None:
        wait(lambda: sweep.poll() is not None or self.processes())

    def wait_for_steps(self, sweep: subprocess.Popen[bytes]) -> None:
        """Until every run has done two steps."""
        wait(lambda: sweep.poll() is not None or (self.processes() and self._begun()))

    def _begun(self) -> bool:
        return all(run.status().get("step", 0) >= 2 for run in self.runs.values())


def wait(condition, seconds=120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def what_was_computed(run: RunDirectory) -> list[dict]:
    return [
        {key: value for key, value in record.items() if not key.startswith("timing_s/")} for record in run.metrics()
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, bandit):
    """What the sweep computes if nobody disturbs it: label -> records."""
    case = Case(tmp_path_factory.mktemp("whole"), bandit)
    assert case.finish() == 0, case.output()
    return {label: what_was_computed(run) for label, run in case.runs.items()}


def assert_whole(case: Case, whole) -> None:
    """Every point ended with one final record, and computed what it would have computed undisturbed, once."""
    assert case.processes() == []
    assert list(case.runs) == ["0", "001"]
    directories = [path.name for path in case.home.iterdir() if path.is_dir() and path.name != "report"]
    assert sorted(directories) == ["0", "001"]  # nothing was moved aside
    for label, run in case.runs.items():
        record = run.status()
        assert (record["status"], record["step"], "error" in record) == ("success", STEPS, False)
        assert [each["step"] for each in run.metrics()] == list(range(STEPS + 1))
        assert what_was_computed(run) == whole[label]
        pids = [line.split()[0] for line in (run.path / "heartbeat").read_text().splitlines()]
        assert len([pid for pid, _ in groupby(pids)]) == len(set(pids))  # no two at a time


@pytest.mark.parametrize("seed", range(2))
def test_a_sweep_killed_twice_and_a_run_killed_once(tmp_path, bandit, whole, seed):
    moments = random.Random(seed)
    case = Case(tmp_path / "case", bandit)
    for attempt in range(2):
        sweep = case.start()
        # First anywhere, from laying out the directories on; then where something has been done.
        if attempt:
            case.wait_for_processes(sweep)
        time.sleep(moments.uniform(0.5, 9))
        sweep.kill()
        sweep.wait()
        wait(lambda: case.processes() == [], 10)
        if not attempt:
            continue
        for run in case.runs.values():
            assert run.status()["status"] in ("queued", "running", "success")
    sweep = case.start()
    case.wait_for_processes(sweep)
    time.sleep(moments.uniform(0, 4))
    victims = case.processes()
    for pid in victims[:1]:
        os.kill(pid, signal.SIGKILL)
    code = sweep.wait(timeout=240)
    states = [run.status()["status"] for run in case.runs.values()]
    # It went on with the other run; the one that was killed is recorded as failed, unless it had just ended.
    assert states.count("failed") == (1 if code else 0)
    assert code in (0, 1)
    if code:
        (failed,) = (run for run in case.runs.values() if run.status()["status"] == "failed")
        assert failed.status()["error"] == "killed by signal 9 (SIGKILL): perhaps out of memory; see log.txt"
    assert case.finish() == 0, case.output()
    assert_whole(case, whole)
    summary = next(case.root.glob("logs/kl_sweep_*.log")).read_text().splitlines()
    assert summary[-1] == "success: 2 | stopped: 0 | fail: 0 | total: 2"
    # Once more: there is nothing left to do.
    before = {label: run.status() for label, run in case.runs.items()}
    assert case.finish() == 0
    assert {label: run.status() for label, run in case.runs.items()} == before


def test_a_killed_run_is_tried_again_within_the_sweep(tmp_path, bandit, whole):
    case = Case(tmp_path / "case", bandit)
    sweep = case.start("--retries", "1")
    case.wait_for_steps(sweep)
    pid = case.runs["001"].status()["pid"]
    assert pid in case.processes()
    os.kill(pid, signal.SIGKILL)
    assert sweep.wait(timeout=240) == 0, case.output()
    assert "kl 0.01: failed, step" in case.output()
    assert "trying again (1)" in case.output()
    assert case.runs["001"].status()["attempts"] == 2
    assert_whole(case, whole)


def test_ctrl_c_records_interrupted_and_the_sweep_goes_on_later(tmp_path, bandit, whole):
    case = Case(tmp_path / "case", bandit)
    sweep = case.start()
    case.wait_for_steps(sweep)
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(timeout=60) == 130, case.output()
    assert case.processes() == []
    for run in case.runs.values():
        record = run.status()
        assert record["status"] == "interrupted"
        assert run.latest().name == f"step_{record['step']}"
    summary = next(case.root.glob("logs/kl_sweep_*.log")).read_text().splitlines()
    assert summary[-1] == "success: 0 | stopped: 0 | fail: 0 | interrupted: 2 | total: 2"
    assert case.finish() == 0, case.output()
    assert_whole(case, whole)


def test_a_second_scheduler_of_the_same_sweep_is_refused(tmp_path, bandit):
    case = Case(tmp_path / "case", bandit)
    endless = ("--steps", "5000", "--set", "collapse=[]")
    sweep = case.start(*endless)
    case.wait_for_steps(sweep)
    assert case.finish(*endless) == 2
    assert f"process {sweep.pid} runs this sweep" in case.output()
    assert len(case.processes()) == 2
    assert [run.status()["status"] for run in case.runs.values()] == ["running", "running"]
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(timeout=60) == 130
    assert case.processes() == []


def test_watching_a_sweep_from_elsewhere_ends_with_it(tmp_path, bandit, whole):
    case = Case(tmp_path / "case", bandit)
    sweep = case.start()
    case.wait_for_steps(sweep)
    words = [sys.executable, "-m", "uncollapse.cli.main", "sweep", "status", str(case.home)]
    shown = json.loads(subprocess.run([*words, "--json"], capture_output=True, check=True).stdout)
    assert {row["status"] for row in shown["runs"]} <= {"running", "success"}
    watched = subprocess.run([*words, "--watch"], capture_output=True, text=True, check=True, timeout=240)
    assert watched.stdout.splitlines()[-1] == "2 runs: 2 success"
    assert sweep.wait(timeout=60) == 0
    assert_whole(case, whole)
