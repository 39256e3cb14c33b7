"""On a real Ray that is started here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from launch_help import OBEDIENT, STUBBORN, gone, python, read_when_there
from uncollapse.core.errors import MissingExtraError, RequestError
from uncollapse.core.registry import registry
from uncollapse.plugins.launch.ray import Ray

CORES = len(os.sched_getaffinity(0))


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="needs the library ray") as caught:
        Ray().describe()
    assert caught.value.fix == "pip install 'uncollapse[ray]'"


def test_registering_it_does_not_import_the_library():
    code = """
import sys
from uncollapse.core.registry import registry
print(registry().names("launcher"), "ray" in sys.modules, "submitit" in sys.modules)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "['local', 'ray', 'slurm'] False False\n"


def test_a_cluster_that_is_not_there_is_refused():
    pytest.importorskip("ray")
    with pytest.raises(RequestError, match="no Ray to connect to"):
        Ray(address="auto", cpus_per_job=1).describe()


@pytest.fixture(scope="class")
def cluster():
    """Ray with three cores and four GPUs that are not there."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=3, num_gpus=4, include_dashboard=False, object_store_memory=80 * 2**20)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
class TestOnACluster:
    def test_codes_callbacks_retries_and_what_a_job_sees(self, tmp_path):
        show = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['EXTRA'], os.getcwd())"
        jobs = [
            python(tmp_path, "fine", show, EXTRA="yes"),
            python(tmp_path, "fails", "raise SystemExit(3)"),
            python(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
            attrs.evolve(python(tmp_path, "absent", ""), argv=("/no/such/program",)),
        ]
        started, finished = [], []

        def finish(job, code):
            finished.append((job.name, code))
            return python(tmp_path, "again", "print('again')") if job.name == "fails" else None

        codes = Ray(cpus_per_job=1).run(jobs, lambda job: started.append(job.name), finish)
        assert codes == [0, 0, 137, 127]
        assert sorted(finished) == [("absent", 127), ("again", 0), ("fails", 3), ("fine", 0), ("killed", 137)]
        assert sorted(started) == ["absent", "again", "fails", "fine", "killed"]
        assert jobs[0].log.read_text() == f"1 yes {Path.cwd()}\n"
        assert "/no/such/program" in jobs[3].log.read_text()

    def test_jobs_hold_gpus_of_their_own(self, tmp_path):
        # Each waits for the other to have begun, so they run at a time; a third has no GPUs left.
        code = f"""
import os, pathlib, sys, time
here = pathlib.Path(r'{tmp_path}')
(here / ("gpus" + sys.argv[1])).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
while len(list(here.glob("gpus*"))) < 2: time.sleep(.02)
print(len(list(here.glob("gpus*"))))
"""
        jobs = [attrs.evolve(python(tmp_path, str(i), code), argv=(sys.executable, "-c", code, str(i))) for i in (0, 1)]
        assert Ray(gpus_per_job=2, cpus_per_job=1).run(jobs) == [0, 0]
        seen = [(tmp_path / f"gpus{i}").read_text().split(",") for i in (0, 1)]
        assert sorted(seen[0] + seen[1]) == ["0", "1", "2", "3"]
        assert Ray(gpus_per_job=2, cpus_per_job=1).describe()[0].endswith("3 CPUs, 4 GPUs, 2 at a time")
        assert Ray(gpus_per_job=1, cpus_per_job=2).describe()[0].endswith("1 at a time")

    def test_no_more_at_a_time_than_asked_for(self, tmp_path):
        running, most = set(), []

        def start(job):
            running.add(job.name)
            most.append(len(running))

        jobs = [python(tmp_path, str(i), "import time; time.sleep(.2)") for i in range(4)]
        Ray(cpus_per_job=1, max_parallel=1).run(jobs, start, lambda job, code: running.discard(job.name))
        assert most == [1] * 4

    @pytest.mark.parametrize(
        ("options", "what", "fix"),
        [
            ({}, "a job asks for 16 CPUs, and no node of the Ray cluster has more than 3", "--ray-num-cpus 3"),
            ({"cpus_per_job": 1, "gpus_per_job": 5}, "a job asks for 5 GPUs, .* more than 4", "--gpus-per-exp 4"),
        ],
    )
    def test_what_no_node_holds_is_refused(self, tmp_path, options, what, fix):
        job = python(tmp_path, "job", "")
        for ask in (Ray(**options).describe, lambda: Ray(**options).run([job])):
            with pytest.raises(RequestError, match=what) as caught:
                ask()
            assert fix in caught.value.fix
        assert not job.log.exists()


LAUNCHER = """
import sys
from pathlib import Path
from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.ray import Ray
here = Path(sys.argv[1])
program = (sys.executable, "-S", str(here / "job.py"))
jobs = [Job(str(i), (*program, str(here / str(i))), here / f"{i}.log") for i in range(4)]
try:
    Ray(cpus_per_job=1, max_parallel=2, grace_s=float(sys.argv[2])).run(jobs)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def launch(tmp_path):
    pytest.importorskip("ray")
    launchers = []

    def start(job, grace_s=60.0):
        (tmp_path / "job.py").write_text(job)
        command = [sys.executable, "-c", LAUNCHER, str(tmp_path), str(grace_s)]
        launchers.append(subprocess.Popen(command, start_new_session=True))
        first = range(min(2, CORES))
        return launchers[0], [int(pid) for i in first for pid in read_when_there(tmp_path / str(i), 60).split()]

    yield start
    for launcher in launchers:
        launcher.kill()
        launcher.wait()


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
def test_interrupting_it_interrupts_the_jobs(launch, tmp_path, whole_group):
    launcher, pids = launch(OBEDIENT)
    if whole_group:
        os.killpg(launcher.pid, signal.SIGINT)  # what a terminal does
    else:
        launcher.send_signal(signal.SIGINT)
    assert launcher.wait(timeout=60) == 130
    assert all(gone(pid) for pid in pids)
    assert all((tmp_path / f"{i}.interrupted").exists() for i in range(len(pids)))
    assert not (tmp_path / "3").exists()


@pytest.mark.slow
def test_interrupting_again_does_not_wait(launch):
    launcher, pids = launch(STUBBORN)
    launcher.send_signal(signal.SIGINT)
    for _ in range(2):  # SIGINT and SIGTERM were of no use; without these, SIGKILL is two minutes away
        with pytest.raises(subprocess.TimeoutExpired):
            launcher.wait(timeout=2)
        launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=50) == 130
    assert all(gone(pid) for pid in pids)


@pytest.mark.slow
def test_stubborn_jobs_are_killed(launch):
    launcher, pids = launch(STUBBORN, grace_s=0.3)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=60) == 130
    assert all(gone(pid) for pid in pids)


@pytest.mark.slow
def test_no_job_outlives_a_launcher_that_is_killed(launch):
    launcher, pids = launch(STUBBORN)
    launcher.kill()
    assert all(gone(pid, within_s=30) for pid in pids)


@pytest.mark.slow
def test_ray_is_started_with_what_the_machine_has():
    pytest.importorskip("ray")
    launcher = registry().create("launcher", "ray", cpus_per_job=CORES)
    (line,) = launcher.describe()
    assert f": {CORES} CPUs, " in line
    with pytest.raises(RequestError, match=f"no node of the Ray cluster has more than {CORES}"):
        attrs.evolve(launcher, cpus_per_job=CORES + 1).describe()
