"""Against the executors of submitit that need no Slurm: ``local`` (processes) and ``debug`` (this process)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import attrs
import pytest
from launch_help import OBEDIENT, gone, python, read_when_there
from uncollapse.core.errors import MissingExtraError, RequestError
from uncollapse.plugins.launch.slurm import Slurm


def test_without_the_library_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingExtraError, match="needs the library submitit") as caught:
        Slurm().run([python(tmp_path, "job", "")])
    assert caught.value.fix == "pip install 'uncollapse[slurm]'"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cluster": "nowhere"}, "nowhere"),
        ({"cluster": "debug", "parameters": {"slurm_accout": "lab"}}, "slurm_accout"),
        ({"cluster": "debug", "parameters": {"accout": "lab"}}, "accout"),
    ],
)
def test_a_wrong_request_is_refused(tmp_path, options, message):
    pytest.importorskip("submitit")
    job = python(tmp_path / "logs", "job", "")
    with pytest.raises(RequestError, match=message):
        Slurm(**options).run([job])
    assert not job.log.exists()


def test_without_slurm_it_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match="nothing can be submitted"):
        Slurm().run([python(tmp_path, "job", "")])


def test_what_every_job_asks_for():
    assert Slurm().describe() == ["slurm: 1 GPUs, 16 CPUs, 1440 min per job, all submitted at once"]
    options = {"cluster": "local", "partition": "long", "max_parallel": 3}
    assert Slurm(**options).describe() == [
        "local: 1 GPUs, 16 CPUs, 1440 min per job, partition long, at most 3 at a time"
    ]


def test_what_slurm_is_asked_for(tmp_path, monkeypatch):
    """The batch file, as submitit writes it for Slurm; ``sbatch`` is a script that keeps it."""
    pytest.importorskip("submitit")
    for name, script in {"srun": "", "sbatch": f"cp $1 {tmp_path}/batch; echo no such partition >&2; exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    launcher = Slurm(gpus_per_job=2, cpus_per_job=4, time_min=90, partition="p", parameters={"slurm_account": "lab"})
    with pytest.raises(RequestError, match="Slurm has refused the job: no such partition"):
        launcher.run([python(tmp_path, "a b=1", "")])
    lines = (tmp_path / "batch").read_text().splitlines()
    wanted = {"gpus-per-node=2", "cpus-per-task=4", "time=90", "partition=p", "account=lab", "nodes=1"}
    assert {f"#SBATCH --{word}" for word in (*wanted, "job-name=a_b_1", "ntasks-per-node=1")} <= set(lines)


@pytest.mark.parametrize("cluster", ["debug", pytest.param("local", marks=pytest.mark.slow)])
def test_codes_callbacks_and_retries(tmp_path, cluster):
    pytest.importorskip("submitit")
    jobs = [
        python(tmp_path, "fine", "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['EXTRA'])", EXTRA="yes"),
        python(tmp_path, "fails", "raise SystemExit(3)"),
        python(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
        attrs.evolve(python(tmp_path, "absent", ""), argv=("/no/such/program",)),
    ]
    events = []

    def finish(job, code):
        events.append((job.name, code))
        return python(tmp_path, "again", "print('again')") if job.name == "fails" else None

    launcher = Slurm(cluster=cluster, cpus_per_job=1, gpus_per_job=0, max_parallel=2)
    assert launcher.run(jobs, lambda job: events.append((job.name, "started")), finish) == [0, 0, 137, 127]
    ends = {"fine": 0, "fails": 3, "again": 0, "killed": 137, "absent": 127}
    assert sorted(events, key=str) == sorted(
        [pair for name, code in ends.items() for pair in ((name, "started"), (name, code))], key=str
    )
    assert all(events.index((name, "started")) < events.index((name, code)) for name, code in ends.items())
    assert jobs[0].log.read_text() == "1 yes\n"
    assert "/no/such/program" in jobs[3].log.read_text()
    assert not list((tmp_path / ".submitit").glob("*.began"))


LAUNCHER = """
import sys
from pathlib import Path
from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.slurm import Slurm
here = Path(sys.argv[1])
program = (sys.executable, "-S", str(here / "job.py"))
jobs = [Job(str(i), (*program, str(here / str(i))), here / f"{i}.log") for i in range(4)]
try:
    Slurm("local", gpus_per_job=0, cpus_per_job=1, max_parallel=2).run(jobs)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
def test_interrupting_it_cancels_the_jobs(tmp_path):
    pytest.importorskip("submitit")
    (tmp_path / "job.py").write_text(OBEDIENT)
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(tmp_path)])
    try:
        pids = [int(read_when_there(tmp_path / str(i), 60)) for i in (0, 1)]
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(timeout=60) == 130
    finally:
        launcher.kill()
    assert all(gone(pid) for pid in pids)
    assert all((tmp_path / f"{i}.interrupted").exists() for i in (0, 1))
    assert not (tmp_path / "2").exists()


TASK = """
import sys
from pathlib import Path
from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.slurm import _task
here = Path(sys.argv[1])
job = Job("0", (sys.executable, "-S", str(here / "job.py"), str(here / "0")), here / "0.log")
print(_task(job, {}, str(here), 60.0, here / "mark"))
"""


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_on_its_node_a_job_is_interrupted_before_the_time_limit_and_when_it_is_cancelled(tmp_path, number):
    (tmp_path / "job.py").write_text(OBEDIENT)
    task = subprocess.Popen([sys.executable, "-c", TASK, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    pid = int(read_when_there(tmp_path / "0"))
    task.send_signal(number)
    assert task.communicate(timeout=30) == ("130\n", None)
    assert (tmp_path / "0.interrupted").exists()
    assert gone(pid)
