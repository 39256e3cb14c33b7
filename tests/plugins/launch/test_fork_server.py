"""Forked jobs behave as processes of their own: every test runs both ways, with and without modules to preload."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launch_help import alive, gone, read_when_there
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.local import Local

MODULES = {
    "shared": "import os\nimporter = os.getpid()\n",
    "threaded": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n",
    "show": """
import os, sys
import shared
print(sys.argv[1:], __name__, os.environ["EXTRA"], os.environ["OMP_NUM_THREADS"], os.getcwd(), flush=True)
print(os.getpid() == os.getpgid(0) == os.getsid(0), sys.stdin.read() == "", "seen by", shared.importer != os.getpid())
os.system("echo a child")
print("err", file=sys.stderr)
""",
    "ends": """
import atexit, os, sys
atexit.register(print, "at exit")
how = sys.argv[1]
if how == "kill": os.kill(os.getpid(), 9)
if how == "raise": raise RuntimeError("broken")
if how == "interrupt": raise KeyboardInterrupt
if how == "text": sys.exit("a reason")
if how.isdecimal(): sys.exit(int(how))
""",
    "sleeps": """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
try:
    time.sleep(600)
except KeyboardInterrupt:
    open(sys.argv[1] + ".interrupted", "w").close()
    sys.exit(130)
""",
    "draws": "import random\nimport numpy.random\nprint(random.random(), numpy.random.rand())",
    "drawn": "import random\nimport numpy.random",
}


@pytest.fixture(params=[(), ("shared",)], ids=["process", "fork"])
def job(request, tmp_path, monkeypatch):
    """Makes a job that runs a module of ours; ``job.forks`` says whether it is a fork."""
    for name, code in MODULES.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def make(module, *arguments, name="job", preload=request.param, **env):
        return Job(name, (sys.executable, "-m", module, *map(str, arguments)), tmp_path / f"{name}.log", env, preload)

    make.forks = bool(request.param)
    return make


def test_what_a_job_sees(job, tmp_path):
    ours = job("show", "a b", "--c", EXTRA="yes")
    ours.log.write_text("old\n")
    assert Local(slots=1).run([ours]) == [0]
    cores = len(os.sched_getaffinity(0))
    assert ours.log.read_text().splitlines() == [
        "old",
        f"['a b', '--c'] __main__ yes {cores} {Path.cwd()}",
        f"True True seen by {job.forks}",
        "a child",
        "err",
    ]


def test_how_a_job_ends(job):
    hows = {"nothing": 0, "3": 3, "raise": 1, "text": 1, "kill": 137, "interrupt": 130}
    jobs = [job("ends", how, name=how) for how in hows]
    assert Local(slots=2).run(jobs) == list(hows.values())
    logs = {how: ours.log.read_text() for how, ours in zip(hows, jobs, strict=True)}
    assert logs["nothing"] == logs["3"] == "at exit\n"
    assert logs["text"] == "a reason\nat exit\n"
    assert logs["kill"] == ""
    assert "RuntimeError: broken\n" in logs["raise"]
    assert logs["raise"].endswith("at exit\n")
    assert "KeyboardInterrupt" in logs["interrupt"]


def test_a_module_that_is_not_there(job):
    ours = job("no_such_module")
    assert Local(slots=1).run([ours]) == [1]
    assert "No module named" in ours.log.read_text()


@pytest.mark.parametrize("preload", [("no_such_module",), ("ends",), ("threaded",)])
def test_what_cannot_be_preloaded_is_no_loss(job, preload):
    ours = job("ends", "3", preload=preload)
    assert Local(slots=1).run([ours]) == [3]
    assert ours.log.read_text() == "at exit\n"


def test_jobs_of_another_environment_or_form_are_served_too(job, tmp_path):
    other = Job("other", (sys.executable, "-c", "print('other')"), tmp_path / "other.log", preload=("shared",))
    jobs = [job("show", name="a", EXTRA="1"), job("show", name="b", EXTRA="2"), other]
    assert Local(slots=1).run(jobs) == [0, 0, 0]
    assert [ours.log.read_text().split()[2] for ours in jobs[:2]] == ["1", "2"]
    assert other.log.read_text() == "other\n"


def test_jobs_with_gpus_are_never_forks(job, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    ours = job("show", EXTRA="")
    Local(gpus="0").run([ours])
    assert "seen by False" in ours.log.read_text()


def test_jobs_draw_numbers_of_their_own(job):
    pytest.importorskip("numpy")
    jobs = [job("draws", name=str(i), preload=("drawn",) if job.forks else ()) for i in range(3)]
    assert Local(slots=1).run(jobs) == [0] * 3
    drawn = [line for ours in jobs for line in ours.log.read_text().split()]
    assert len(drawn) == len(set(drawn)) == 6


def test_what_a_job_left_behind_is_ended(job, tmp_path):
    (tmp_path / "leaves.py").write_text(
        "import subprocess, sys\nopen(sys.argv[1], 'w').write(str(subprocess.Popen(['sleep', '600']).pid))"
    )
    assert Local(slots=1).run([job("leaves", tmp_path / "pid")]) == [0]
    assert gone(int((tmp_path / "pid").read_text()))


LAUNCHER = """
import sys
from pathlib import Path
from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.local import Local
here, preload = Path(sys.argv[1]), sys.argv[2:]
program = (sys.executable, "-m", "sleeps")
jobs = [Job(str(i), (*program, str(here / str(i))), here / f"{i}.log", preload=preload) for i in range(3)]
try:
    print(Local(slots=2, grace_s=60).run(jobs))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def launcher(job, tmp_path):
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path), *job("sleeps").preload]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def pids(tmp_path, *names):
    return [int(pid) for name in names for pid in read_when_there(tmp_path / name).split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_the_launcher_interrupts_the_jobs(launcher, tmp_path, number):
    running = pids(tmp_path, "0", "1")
    launcher.send_signal(number)
    assert launcher.wait(timeout=30) == 130
    assert all(gone(pid) for pid in running)
    assert (tmp_path / "0.interrupted").exists() and (tmp_path / "1.interrupted").exists()
    assert not (tmp_path / "2").exists()


def test_no_job_outlives_a_launcher_that_is_killed(launcher, tmp_path):
    running = pids(tmp_path, "0", "1")
    launcher.kill()
    assert all(gone(pid, within_s=5) for pid in running)


def test_a_job_that_is_killed_leaves_nothing_and_the_queue_goes_on(launcher, tmp_path):
    (killed, child), (other, _) = pids(tmp_path, "0"), pids(tmp_path, "1")
    os.kill(killed, signal.SIGKILL)
    (last, _) = pids(tmp_path, "2")
    assert gone(child) and alive(other)
    for pid in (other, last):
        os.kill(pid, signal.SIGINT)
    assert launcher.communicate(timeout=30)[0] == "[137, 130, 130]\n"


def test_jobs_of_a_server_that_is_killed_count_as_killed(launcher, job, tmp_path):
    if not job.forks:
        pytest.skip("there is no server")
    running = pids(tmp_path, "0", "1")
    stat = Path(f"/proc/{running[0]}/stat").read_text().rsplit(")", 1)[1].split()
    os.kill(int(stat[1]), signal.SIGKILL)  # the parent
    assert all(gone(pid) for pid in running)
    (last, _) = pids(tmp_path, "2")  # as a process of its own
    os.kill(last, signal.SIGINT)
    assert launcher.communicate(timeout=30)[0] == "[137, 137, 130]\n"


TRAINING = ("deepspeed", "uncollapse.plugins.training.train", "uncollapse.plugins.training.deepspeed_backend")


def training(tmp_path, name, steps, preload):
    """The job of a training run, and its directory."""
    settings = ("--set", f"trainer.steps={steps}", "--set", "validation.every=0", "--run-dir", str(tmp_path / name))
    command = (sys.executable, "-m", "uncollapse.cli.main", "train", "tiny-sokoban", *settings)
    return Job(name, command, tmp_path / f"{name}.log", preload=preload)


def figures(run):
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if not key.startswith("tim")} for line in lines]


@pytest.mark.slow
def test_a_training_run_is_the_same_either_way(tmp_path, monkeypatch):
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    jobs = [training(tmp_path, name, 2, preload) for name, preload in {"process": (), "fork": TRAINING}.items()]
    assert Local(slots=1).run(jobs) == [0, 0]
    process, fork = (tmp_path / name for name in ("process", "fork"))
    assert figures(process) == figures(fork) and len(figures(fork)) == 2
    logs = [re.sub(r"\d:\d\d:\d\d left", "", job.log.read_text()) for job in jobs]
    assert logs[0].replace(str(process), str(fork)) == logs[1]


INTERRUPTED = """
import sys
from pathlib import Path
from test_fork_server import TRAINING, training
from uncollapse.plugins.launch.local import Local
here = Path(sys.argv[1])
jobs = [training(here, name, 1000, preload) for name, preload in {"process": (), "fork": TRAINING}.items()]
try:
    Local(slots=2, grace_s=120).run(jobs)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
def test_an_interrupted_training_run_finishes_its_step_and_writes_a_checkpoint_either_way(tmp_path, monkeypatch):
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    launcher = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)])
    try:
        for name in ("process", "fork"):
            read_when_there(tmp_path / name / "metrics.jsonl", 120)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(timeout=120) == 130
    finally:
        launcher.kill()
    for name in ("process", "fork"):
        run = RunDirectory(tmp_path / name)
        steps = len(figures(run.path))
        assert (run.status()["status"], run.status()["step"]) == ("interrupted", steps)
        assert run.latest().name.endswith(str(steps))
        assert "finishing the step" in (tmp_path / f"{name}.log").read_text()
