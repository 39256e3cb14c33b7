"""Several processes for one run of this machine: which are started, and how they end."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
import torch
from uncollapse.core.compose.config import compose, to_dict
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.training.processes import launch as distributed
from uncollapse.plugins.training.processes import rank_processes
from uncollapse.plugins.training.processes.launch import check_gpus
from uncollapse.plugins.training.processes.rank_processes import run_ranks


def test_there_must_be_a_gpu_for_each_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    check_gpus(3)
    with pytest.raises(RequestError, match="there are 3 GPUs for 4 ranks"):
        check_gpus(4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check_gpus(4)


def rank(program):
    return [sys.executable, "-c", f"import os, signal, sys, time; rank = int(os.environ['RANK']); {program}"]


def test_every_rank_knows_its_place(tmp_path):
    say = "open(os.path.join(sys.argv[1], str(rank)), 'w').write(' '.join(os.environ[n] for n in sys.argv[2:]))"
    names = ("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert run_ranks([*rank(say), str(tmp_path), *names], 3) == 0
    said = [(tmp_path / str(number)).read_text().split() for number in range(3)]
    assert [words[:3] for words in said] == [[str(number), "3", "127.0.0.1"] for number in range(3)]
    assert len({words[3] for words in said}) == 1


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("sys.exit(3)", 3),
        ("sys.exit(0 if rank else 2)", 2),
        ("os.kill(os.getpid(), signal.SIGKILL) if rank else None", 137),
    ],
)
def test_the_exit_code_is_that_of_the_first_failure(program, code):
    assert run_ranks(rank(program), 2) == code


def test_what_a_failed_rank_leaves_behind_is_ended_after_a_while(monkeypatch, tmp_path):
    monkeypatch.setattr(rank_processes, "PATIENCE_S", 0.5)
    program = (
        "import subprocess; path = sys.argv[1];"
        "rank and open(path, 'w').write(str(subprocess.Popen(['sleep', '600']).pid));"
        "[time.sleep(0.05) for _ in iter(lambda: os.path.exists(path), True)];"
        "time.sleep(600 * rank); sys.exit(1)"
    )
    assert run_ranks([*rank(program), str(tmp_path / "child")], 2) == 1
    deadline = time.monotonic() + 10
    with suppress(psutil.NoSuchProcess):
        child = psutil.Process(int((tmp_path / "child").read_text()))
        while child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def waiting(tmp_path):
    """Two ranks that take a while to end once they are asked to, and the process that has started them."""
    program = (
        "from uncollapse.plugins.training.processes.rank_processes import end_with_launcher; end_with_launcher();"
        "end = lambda *_: (time.sleep(1 + rank), open(os.path.join(sys.argv[1], f'end{rank}'), 'w'), os._exit(130));"
        "signal.signal(signal.SIGINT, end); signal.signal(signal.SIGTERM, end);"
        "open(os.path.join(sys.argv[1], f'begin{rank}'), 'w'); time.sleep(600)"
    )
    here = "import sys; from uncollapse.plugins.training.processes.rank_processes import run_ranks; "
    start = f"{here}sys.exit(run_ranks({[*rank(program), str(tmp_path)]!r}, 2))"
    parent = subprocess.Popen([sys.executable, "-c", start], env=dict(os.environ))
    both(tmp_path, "begin")
    return parent


def both(path, what):
    deadline = time.monotonic() + 60
    while not all((path / f"{what}{number}").exists() for number in range(2)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_rank_and_is_waited_for(waiting, tmp_path, number):
    """However long a rank takes: it is finishing its step."""
    waiting.send_signal(number)
    assert waiting.wait(timeout=60) == 130
    assert all((tmp_path / f"end{number}").exists() for number in range(2))


def test_a_signal_reaches_the_ranks_that_are_started_after_it(monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)
            if len(started) == 1:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(rank_processes.subprocess, "Popen", Interrupted)
    assert run_ranks(["sleep", "600"], 2) == 130
    assert [process.returncode for process in started] == [-signal.SIGINT] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells children that their parent was killed")
def test_ranks_are_asked_to_end_where_their_parent_is_killed(waiting, tmp_path):
    waiting.kill()
    both(tmp_path, "end")


@pytest.mark.parametrize(
    ("code", "before", "after", "error"),
    [
        (137, "running", "failed", "was killed by signal 9"),
        (137, "failed", "failed", "was killed by signal 9"),
        (139, "success", "success", None),
        (1, "running", "failed", "failed with exit code 1"),
        (1, "failed", "failed", None),
        (3, "running", "running", None),
        (130, "running", "interrupted", "was asked to stop before the others could know"),
    ],
)
def test_the_status_says_that_a_rank_has_failed_alone(
    monkeypatch, tmp_path, bandit, capsys, code, before, after, error
):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(distributed, "run_ranks", lambda command, ranks: code)
    RunDirectory.create(tmp_path / "run", to_dict(compose(bandit)), {}).set_status(before)
    with pytest.raises(SystemExit) as ended:
        distributed.relaunch(2, tmp_path / "run")
    assert ended.value.code == code
    record = RunDirectory.open(tmp_path / "run").status()
    assert record["status"] == after
    assert error in record["error"] if error else "error" not in record
    assert ("killed by signal" in capsys.readouterr().err) == (code in (137, 139))
    with pytest.raises(SystemExit):
        distributed.relaunch(2, tmp_path / "none")
    assert not (tmp_path / "none").exists()
