"""``kill -9`` of whatever takes part: the launcher, a job, the guardian."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from launch_help import STUBBORN, alive, gone, python, read_when_there
from uncollapse.plugins.launch import guardian
from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.local import Local

LAUNCHER = """
import sys
from pathlib import Path
from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.local import Local
here = Path(sys.argv[1])
program = (sys.executable, "-S", str(here / "job.py"))
Local(slots=3).run([Job(str(i), (*program, str(here / str(i))), here / f"{i}.log") for i in range(5)])
"""


def guardians() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(guardian.__file__) in command and alive(int(entry.name)):
                found.add(int(entry.name))
    return found


def test_no_job_outlives_a_launcher_that_is_killed(tmp_path):
    (tmp_path / "job.py").write_text(STUBBORN)
    others = guardians()
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(tmp_path)], start_new_session=True)
    try:
        pids = [int(pid) for i in range(3) for pid in read_when_there(tmp_path / str(i)).split()]
        assert len(pids) == 6
        assert all(map(alive, pids))
        (own,) = guardians() - others
    finally:
        os.killpg(launcher.pid, signal.SIGKILL)  # the whole group: the guardian is not in it
        launcher.wait()
    assert all(gone(pid, within_s=5) for pid in pids)
    assert gone(own, within_s=5)
    assert not (tmp_path / "3").exists()


def test_a_job_that_is_killed_leaves_nothing_and_the_queue_goes_on(tmp_path):
    (tmp_path / "job.py").write_text(STUBBORN)
    killed = Job("killed", (sys.executable, "-S", str(tmp_path / "job.py"), str(tmp_path / "pids")), tmp_path / "k.log")
    kill = f"""
import os, pathlib, time
while not (pathlib.Path(r'{tmp_path}') / "pids").exists() or len(open(r'{tmp_path}/pids').read().split()) < 2:
    time.sleep(.02)
os.kill(int(open(r'{tmp_path}/pids').read().split()[0]), 9)
"""
    jobs = [killed, python(tmp_path, "kill", kill), python(tmp_path, "next", "print('ran')")]
    assert Local(slots=2).run(jobs) == [137, 0, 0]
    assert jobs[2].log.read_text() == "ran\n"
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


def test_a_run_goes_on_without_its_guardian(tmp_path):
    others, killed = guardians(), []

    def start(job):
        if job.name == "0":
            (own,) = guardians() - others
            killed.append(own)
            os.kill(own, signal.SIGKILL)
            assert gone(own)

    jobs = [python(tmp_path, str(i), "import sys; print('ran'); sys.exit(3)") for i in range(4)]
    assert Local(slots=2).run(jobs, on_start=start) == [3] * 4
    assert killed
    assert all(job.log.read_text() == "ran\n" for job in jobs)


def test_the_guardian_goes_when_the_run_is_over(tmp_path):
    others, seen = guardians(), []
    jobs = [python(tmp_path, "job", "")]
    Local(slots=1).run(jobs, on_start=lambda job: seen.extend(guardians() - others))
    assert len(seen) == 1
    assert gone(seen[0], within_s=5)


def test_the_guardian_leaves_alone_what_it_was_told_to_forget():
    kept, left = (subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2))
    try:
        guard = guardian.Guardian()
        guard.watch(kept.pid)
        guard.watch(left.pid)
        guard.forget(kept.pid)
        assert kept.poll() is None and left.poll() is None
        guard.close()
        assert left.wait(timeout=10) == -signal.SIGKILL
        time.sleep(0.2)
        assert kept.poll() is None
    finally:
        kept.kill()
        left.kill()
