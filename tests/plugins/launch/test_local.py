from __future__ import annotations

import signal
import subprocess
import sys
import time

import attrs
import pytest
from launch_help import OBEDIENT, STUBBORN, gone, python, read_when_there
from uncollapse.plugins.launch import slots
from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.local import Local


def test_exit_codes_come_in_the_order_of_the_jobs(tmp_path):
    jobs = [
        python(tmp_path, "slow", "import time; time.sleep(.3); raise SystemExit(3)"),
        python(tmp_path, "fine", "print('out'); import sys; print('err', file=sys.stderr)"),
        python(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
        Job("absent", ("/no/such/program",), tmp_path / "absent.log"),
    ]
    finished = []
    assert Local(slots=2).run(jobs, on_finish=lambda job, code: finished.append((job.name, code))) == [3, 0, 137, 127]
    assert sorted(finished) == [("absent", 127), ("fine", 0), ("killed", 137), ("slow", 3)]
    assert set((tmp_path / "fine.log").read_text().split()) == {"out", "err"}
    assert "/no/such/program" in (tmp_path / "absent.log").read_text()


def test_output_is_appended_to_the_log(tmp_path):
    job = python(tmp_path, "job", "print('new')")
    job.log.write_text("old\n")
    Local(slots=1).run([job])
    assert job.log.read_text() == "old\nnew\n"


def test_a_free_slot_takes_the_next_job_while_a_long_one_still_runs(tmp_path):
    # The long job ends only when all the short ones are done: with batches instead of a queue it would never end.
    short = [python(tmp_path, f"short{i}", f"open(r'{tmp_path}/done{i}', 'w').close()") for i in range(3)]
    wait = f"import pathlib, time\nwhile len(list(pathlib.Path(r'{tmp_path}').glob('done*'))) < 3: time.sleep(.02)"
    started = []
    codes = Local(slots=2).run([python(tmp_path, "long", wait), *short], on_start=lambda job: started.append(job.name))
    assert codes == [0, 0, 0, 0]
    assert started == ["long", "short0", "short1", "short2"]


def test_no_more_jobs_at_a_time_than_slots(tmp_path):
    running, most = set(), []

    def start(job):
        running.add(job.name)
        most.append(len(running))

    jobs = [python(tmp_path, str(i), "import time; time.sleep(.05)") for i in range(5)]
    Local(slots=2).run(jobs, on_start=start, on_finish=lambda job, code: running.discard(job.name))
    assert max(most) == 2


@attrs.frozen
class Choosy(Local):
    def admits(self, job):
        return job.name != "long"


def test_a_job_that_a_launcher_refuses_never_starts(tmp_path):
    started, finished = [], []
    jobs = [python(tmp_path, name, "raise SystemExit(3)") for name in ("first", "long", "last")]
    launcher = Choosy(slots=1)
    codes = launcher.run(
        jobs, lambda job: started.append(job.name), lambda job, code: finished.append((job.name, code))
    )
    assert codes == [3, 0, 3]
    assert started == ["first", "last"]
    assert finished == [("first", 3), ("last", 3)]


def test_environment_of_a_job(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(slots.os, "sched_getaffinity", lambda pid: set(range(8)))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # as a process has them that has trained before
        monkeypatch.setenv(name, "0")
    show = "import os; print(*[os.environ.get(k) for k in ('OMP_WAIT_POLICY', 'OMP_NUM_THREADS', 'EXTRA', 'RANK')])"
    job = python(tmp_path, "job", show, EXTRA="yes")
    Local(slots=3).run([job])
    assert job.log.read_text().split() == ["passive", "2", "yes", "None"]


def test_a_job_sees_the_gpus_of_its_slot(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    jobs = [python(tmp_path, name, "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])") for name in "abc"]
    Local(gpus="4,5,6,7", gpus_per_job=2, max_parallel=1).run(jobs)
    assert [job.log.read_text() for job in jobs] == ["4,5\n"] * 3


def test_a_job_that_is_returned_is_queued_at_the_end_and_its_code_counts(tmp_path):
    flaky = "import os, sys; old = os.path.exists('flag'); open('flag', 'w').close(); sys.exit(0 if old else 5)"
    here = f"import os; os.chdir(r'{tmp_path}'); "
    jobs = [python(tmp_path, "flaky", here + flaky), python(tmp_path, "fails", "raise SystemExit(6)")]
    order, finished = [], []

    def finish(job, code):
        finished.append((job.name, code))
        tried = sum(name == job.name for name, _ in finished)
        return attrs.evolve(job, env={"TRY": str(tried)}) if code and tried < 3 else None

    codes = Local(slots=1).run(jobs, lambda job: order.append((job.name, job.env.get("TRY"))), finish)
    assert codes == [0, 6]
    assert order == [("flaky", None), ("fails", None), ("flaky", "1"), ("fails", "1"), ("fails", "2")]
    assert finished == [("flaky", 5), ("fails", 6), ("flaky", 0), ("fails", 6), ("fails", 6)]


def test_a_slot_rests_after_a_job_while_another_one_takes_the_next(tmp_path):
    jobs = [python(tmp_path, "first", ""), python(tmp_path, "long", "import time; time.sleep(3)")]
    events = []
    Local(slots=2, cooldown_s=1.0).run(
        [*jobs, python(tmp_path, "next", "")],
        lambda job: events.append((time.monotonic(), "start", job.name)),
        lambda job, code: events.append((time.monotonic(), "finish", job.name)),
    )
    returned = time.monotonic()
    assert [event[1:] for event in events[:4]] == [
        ("start", "first"),
        ("start", "long"),
        ("finish", "first"),
        ("start", "next"),
    ]
    assert events[3][0] - events[2][0] >= 1.0
    assert returned - events[-1][0] < 1.0  # nothing rests after the last one


def test_a_log_that_cannot_be_written_fails_its_job_alone(tmp_path, capfd):
    (tmp_path / "file").touch()
    jobs = [attrs.evolve(python(tmp_path, "a", ""), log=tmp_path / "file" / "a.log"), python(tmp_path, "b", "")]
    assert Local(slots=1).run(jobs) == [127, 0]
    assert "cannot start a: " in capfd.readouterr().err


@pytest.mark.parametrize("field", ["slots", "gpus_per_job", "max_parallel"])
@pytest.mark.parametrize("value", [0, -1, "many", True, 1.5])
def test_counts_are_checked(field, value):
    with pytest.raises(ValueError, match=field):
        Local(**{field: value})


def test_what_a_finished_job_left_behind_is_ended(tmp_path):
    code = f"import subprocess; open(r'{tmp_path}/pid', 'w').write(str(subprocess.Popen(['sleep', '600']).pid))"
    assert Local(slots=1).run([python(tmp_path, "job", code)]) == [0]
    assert gone(int((tmp_path / "pid").read_text()))


LAUNCHER = """
import sys
from pathlib import Path
from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.local import Local
here = Path(sys.argv[1])
program = (sys.executable, "-S", str(here / "job.py"))
jobs = [Job(str(i), (*program, str(here / str(i))), here / f"{i}.log") for i in range(3)]
try:
    Local(slots=2, grace_s=float(sys.argv[2])).run(jobs)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU])
@pytest.mark.parametrize(("job", "grace_s"), [(OBEDIENT, 60), (STUBBORN, 0.3)])
def test_no_job_outlives_the_launcher(tmp_path, number, job, grace_s):
    (tmp_path / "job.py").write_text(job)
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(tmp_path), str(grace_s)])
    try:
        pids = [int(pid) for i in (0, 1) for pid in read_when_there(tmp_path / str(i)).split()]
        launcher.send_signal(number)
        assert launcher.wait(timeout=30) == 130
    finally:
        launcher.kill()
    assert all(gone(pid) for pid in pids)
    assert not (tmp_path / "2").exists(), "a queued job was started after the interruption"
    if job is OBEDIENT:
        assert all((tmp_path / f"{i}.interrupted").exists() for i in (0, 1))


def test_interrupting_again_does_not_wait_for_the_grace_period(tmp_path):
    (tmp_path / "job.py").write_text(STUBBORN)
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(tmp_path), "600"])
    try:
        pids = [int(pid) for i in (0, 1) for pid in read_when_there(tmp_path / str(i)).split()]
        for _ in range(100):
            if launcher.poll() is not None:
                break
            launcher.send_signal(signal.SIGINT)
            time.sleep(0.2)
        assert launcher.wait(timeout=1) == 130
    finally:
        launcher.kill()
    assert all(gone(pid) for pid in pids)


def test_an_error_in_a_callback_ends_the_jobs(tmp_path):
    pid = tmp_path / "pid"
    long = f"import os, time; open(r'{pid}', 'w').write(str(os.getpid())); time.sleep(600)"
    jobs = [python(tmp_path, "long", long), python(tmp_path, "short", "")]

    def start(job):
        if job.name == "short":
            read_when_there(pid)

    def broken(job, code):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Local(slots=2).run(jobs, on_start=start, on_finish=broken)
    assert gone(int(pid.read_text()))
