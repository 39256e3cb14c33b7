"""Programs of a model run in a process that is shut in. Each escape is tried for real."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from uncollapse.core.errors import RequestError
from uncollapse.plugins.environments.tools import python_process, system_calls
from uncollapse.plugins.environments.tools.python import Python
from uncollapse.plugins.environments.tools.python_process import MOST_OUTPUT, obstacle
from uncollapse.plugins.environments.tools.system_calls import call_filter

shut_in = pytest.mark.skipif(sys.platform != "linux" or bool(obstacle(False)), reason="this machine has no Landlock")


def run(code, **settings):
    session = Python(**settings).start(0, 0)
    try:
        return session.python(code)
    finally:
        session.close()


@pytest.fixture(scope="module")
def kept():
    session = Python(keep=True).start(0, 0)
    yield session
    session.close()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print(1)\n2 + 3", "1\n5"),
        ("x = 2", "(nothing was printed)"),
        ("None", "(nothing was printed)"),
        ("if __name__ == '__main__':\n    print('main')", "main"),
        ("import sys; print('err', file=sys.stderr)", "err"),
        ("import math, json, datetime, hashlib, sqlite3, asyncio\nasyncio.run(asyncio.sleep(0))\nmath.isqrt(50)", "7"),
        ("def half(n):\n    return n / 0\nhalf(3)", "ZeroDivisionError: division by zero"),
        ("import json\njson.loads('x')", "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        ("x = (", "SyntaxError: '(' was never closed"),
        ("raise ValueError('long' * 10**6)", "longlong ..."),
        ("exit(4)", "SystemExit: 4"),
        ("input()", "EOFError: EOF when reading a line"),
        ("def f(n):\n    return f(n + 1)\nf(0)", "RecursionError: maximum recursion depth exceeded"),
        ("import os; os.write(1, b'\\xff\\xfe'); print('\\ud800')", "\ufffd\ufffd\\ud800"),
        ("import sys, io\nsys.stdout = io.StringIO()\n1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.stdout.close()", "(nothing was printed)"),
        ("'\\x00' \"\ud800\"", "'\\x00?'"),
    ],
)
def test_a_program_says_what_it_prints_the_value_of_its_last_line_or_its_error(kept, code, said):
    told = kept.python(code)
    assert told == said or ('File "<code>"' in told and told.endswith(said)) or said == told.splitlines()[-1], told
    assert len(told) < 3000


def test_a_traceback_holds_the_lines_of_the_program_and_no_place_of_this_machine(kept):
    assert kept.python("import json\ndef read(text):\n    return json.loads(text)\nread('')") == (
        "Traceback (most recent call last):\n  File \"<code>\", line 4, in <module>\n    read('')\n"
        '  File "<code>", line 3, in read\n    return json.loads(text)\n'
        "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)"
    )


def test_names_stay_only_where_they_are_kept(kept):
    kept.python("number = 41")
    assert kept.python("number + 1") == "42"
    session = Python().start(0, 0)
    session.python("number = 41")
    assert "NameError: name 'number' is not defined" in session.python("number + 1")
    assert Python(keep=True).start(0, 0).python("'number' in globals()") == "False"


ESCAPES = {
    "open('/etc/passwd').read()": "[Errno 13] Permission denied",
    "import os; os.listdir('/')": "[Errno 13] Permission denied",
    "import os; open(f'/proc/{os.getppid()}/environ').read()": "[Errno 13] Permission denied",
    "import os; open('/proc/self/mem', 'r+b')": "[Errno 13] Permission denied",
    "import os; os.symlink('/etc/passwd', 'link'); open('link').read()": "[Errno 13] Permission denied",
    "import os; os.link('/etc/passwd', 'hard')": "PermissionError|OSError: \\[Errno 18\\]",
    "import os; os.kill(os.getppid(), 9)": "[Errno 1] Operation not permitted",
    "import os; os.killpg(os.getpgid(os.getppid()), 9)": "[Errno 1] Operation not permitted",
    "import fcntl, os; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())": "[Errno 1] Operation not permitted",
    "import os\nfor _ in range(1000):\n    os.fork()": "[Errno 1] Operation not permitted",
    "import subprocess; subprocess.Popen(['/bin/sleep', '99'])": "[Errno 1] Operation not permitted",
    "import os; os.execv('/bin/sh', ['sh'])": "[Errno 1] Operation not permitted",
    "import socket; socket.socket()": "[Errno 1] Operation not permitted",
    "import socket; socket.socket(socket.AF_UNIX)": "[Errno 1] Operation not permitted",
    "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))": "ValueError|PermissionError",
    "import os; os.chmod('/etc', 0o777)": "[Errno 1] Operation not permitted",
    "import os; os.utime('/etc/passwd')": "[Errno 1] Operation not permitted",
    "import os; os.memfd_create('more')": "[Errno 1] Operation not permitted",
    "open('big', 'wb').write(bytes(20 << 20))": "[Errno 27] File too large",
    # raw system calls: ptrace, fork, clone of a process, and prctl(PR_SET_PDEATHSIG)
    "import ctypes; c = ctypes.CDLL(None, use_errno=True); c.ptrace(16, 1, 0, 0), ctypes.get_errno()": "(-1, 1)",
    "import ctypes; c = ctypes.CDLL(None, use_errno=True); c.vfork(), ctypes.get_errno()": "(-1, 1)",
    "import ctypes; c = ctypes.CDLL(None, use_errno=True); c.syscall(435, None, 0), ctypes.get_errno()": "(-1, 38)",
    "import ctypes; c = ctypes.CDLL(None, use_errno=True); c.prctl(1, 0, 0, 0, 0), ctypes.get_errno()": "(-1, 1)",
    "import ctypes; c = ctypes.CDLL(None, use_errno=True); c.unshare(0x10000000), ctypes.get_errno()": "(-1, 1)",
}


@shut_in
@pytest.mark.parametrize("code", ESCAPES)
def test_a_program_cannot_leave(kept, code):
    told = kept.python(code)
    assert any(part.replace("\\", "") in told for part in ESCAPES[code].split("|")), told


@shut_in
def test_nothing_outside_is_written_and_secrets_are_not_seen(kept, tmp_path, monkeypatch):
    monkeypatch.setenv("SERVICE_KEY", "hunter2")
    home = tmp_path / "home"
    home.mkdir()
    (home / "kept.txt").write_text("kept")
    for code in (
        f"open('{home}/new.txt', 'w')",
        f"open('{home}/kept.txt', 'a')",
        f"import os; os.remove('{home}/kept.txt')",
        f"import os; os.rename('{home}/kept.txt', 'kept.txt')",
        f"import os; os.mkdir('{home}/folder')",
        f"import os; os.truncate('{home}/kept.txt', 0)",
        "import os; open(os.path.expanduser('~root/.profile'), 'a')",
    ):
        assert "Error" in kept.python(code), code
    assert [path.name for path in home.iterdir()] == ["kept.txt"]
    assert (home / "kept.txt").read_text() == "kept"
    assert "hunter2" not in run("import os; print(os.environ)", keep=False)
    assert kept.python("open('mine', 'w').write('1'); open('mine').read()") == "'1'"


@shut_in
def test_a_server_on_this_machine_is_not_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        connect = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        assert "PermissionError" in run(connect)
        with pytest.raises(TimeoutError):
            server.accept()
        assert "raddr=" in run(connect, isolation="none")
        server.accept()[0].close()


@pytest.mark.parametrize(
    ("code", "settings", "said"),
    [
        ("print('begun')\nwhile True: pass", {"cpu_seconds": 1}, "used more than 1 seconds of processor time"),
        ("print('begun')\nimport time; time.sleep(99)", {"wait_seconds": 0.4}, "took longer than 0.4 seconds"),
        ("print('begun')\nimport os; os._exit(3)", {}, "ended its process, with the exit code 3"),
        ("print('begun')\nimport ctypes; ctypes.string_at(0)", {}, "ended by the signal SIGSEGV"),
        (
            "print('begun')\nn = 0\nwhile True:\n    open(f'f{n}', 'wb').write(bytes(8 << 20)); n += 1",
            {},
            "wrote more than 64 MB or 1000 files",
        ),
        ("print('begun')\nwhile True: print('x' * 10**5)", {}, f"printed more than {MOST_OUTPUT} bytes"),
    ],
)
def test_a_program_that_goes_too_far_is_ended_and_the_model_is_told(code, settings, said):
    told = run(code, **settings)
    assert told.startswith("begun")
    assert told.splitlines()[-1].startswith("Error: the program")
    assert said in told.splitlines()[-1]


def test_ten_megabytes_are_cut_and_too_much_memory_is_an_error():
    for code in ("print('a' * 10**7)", "'a' * 10**7"):
        assert MOST_OUTPUT <= len(run(code)) < MOST_OUTPUT + 200
    assert run("x = [0] * 10**9") == "MemoryError: a program may use 512 MB"
    assert run("x = []\nwhile True: x.append(bytes(10**7))", memory_mb=100) == "MemoryError: a program may use 100 MB"
    assert "Error: the program has 1048577 characters" not in run("1")
    with pytest.raises(ValueError, match="at most 1048576 are run"):
        run(" " * (2**20 + 1))


def test_a_kept_process_that_was_ended_begins_anew_and_says_so():
    session = Python(keep=True, wait_seconds=0.3).start(0, 0)
    session.python("x = 1")
    assert session.python("while True: pass").endswith("What earlier programs defined is gone")
    assert session.python("'x' in globals()") == "False"
    session.close()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("isolation", ["full", "none"])
def test_no_process_and_no_folder_is_left(isolation):
    session = Python(keep=True, isolation=isolation).start(0, 0)
    code = "import os\nos.umask(0o777); os.mkdir('locked')\nprint(os.getpid(), os.getcwd())"
    pid, folder = session.python(code).split()
    child = 0
    if isolation == "none":
        daemon = "import os, time\nchild = os.fork()\nif not child:\n    time.sleep(99)\nchild"
        child = int(session.python(daemon))
        assert alive(child)
    assert alive(int(pid))
    session.close()
    for _ in range(100):
        if not (child and alive(child)):
            break
        time.sleep(0.02)
    assert not alive(int(pid))
    assert not (child and alive(child))
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    "code",
    [
        "import os, shutil; shutil.rmtree(os.getcwd())",
        "import os\nhere = os.getcwd()\nos.rmdir(here)\nos.symlink(os.path.dirname(here) + '/kept', here)",
        "import os\nos.chmod(os.getcwd(), 0)",
        "import os\nos.symlink('../kept', 'link')\nos.mkdir('a')\nopen('a/file', 'w').close()\nos.chmod('a', 0)",
    ],
)
def test_what_a_program_does_to_its_folder_changes_nothing_around_it(code, tmp_path, monkeypatch):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("kept")
    tmp_path.chmod(0o1755)
    monkeypatch.setattr(python_process.tempfile, "tempdir", str(tmp_path))
    assert run(code, isolation="none") == "(nothing was printed)"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").read_text() == "kept"
    assert (tmp_path.stat().st_mode & 0o7777, (tmp_path / "kept").stat().st_mode & 0o777) == (0o1755, 0o755)


def test_a_program_ends_with_the_process_that_runs_it(tmp_path):
    script = (
        "from uncollapse.plugins.environments.tools.python import Python\n"
        "session = Python(keep=True, wait_seconds=99).start(0, 0)\n"
        "print(session.python('import os; os.getpid()'), flush=True)\n"
        "session.python('import time; time.sleep(99)')\n"
    )
    # who is killed cannot remove the folder
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    for _ in range(200):
        if not alive(pid):
            break
        time.sleep(0.02)
    assert not alive(pid)


def test_a_process_that_nobody_has_ended_leaves_no_folder():
    script = (
        "from uncollapse.plugins.environments.tools.python import Python\n"
        "session = Python(keep=True).start(0, 0)\n"
        "print(session.python('import os; print(os.getpid(), os.getcwd())'), flush=True)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    pid, folder = said.split()
    assert not Path(folder).exists()
    for _ in range(200):
        if not alive(int(pid)):
            break
        time.sleep(0.02)
    assert not alive(int(pid))


def test_programs_run_side_by_side_in_threads():
    said = {}

    def one(number):
        said[number] = run(f"import time; time.sleep(0.2); print({number})")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {number: str(number) for number in range(4)}


def test_where_programs_cannot_be_shut_in_they_are_refused_unless_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(system_calls.platform, "machine", lambda: "riscv64")
    python_process.obstacle.cache_clear()
    try:
        with pytest.raises(RequestError, match="system calls of this kind of machine are not known") as refused:
            Python()
        assert "isolation: none" in refused.value.fix
        assert run("1 + 1", isolation="none") == "2"
    finally:
        python_process.obstacle.cache_clear()


@pytest.mark.slow
def test_packages_can_be_imported_where_that_is_asked_for():
    pytest.importorskip("numpy")
    code = "import numpy\nprint(int(numpy.arange(4) @ numpy.arange(4)))"
    assert run(code, packages=True, memory_mb=4096, wait_seconds=60, cpu_seconds=60) == "14"
    assert "ModuleNotFoundError: No module named 'numpy'" in run(code)


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decided(program, machine, number, *arguments):
    """What the kernel does with a call: the filter is run as the kernel runs it."""
    data = struct.pack("<IIQ6Q", number, machine, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = list(struct.iter_unpack("HBBI", program))
    at, held = 0, 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x06:
            return value
        if code == 0x20:
            held = struct.unpack_from("<I", data, value)[0]
        else:
            met = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[code]
            at += if_true if met else if_false


CALLS = ("socket", "openat", "clone", "kill", "prctl", "prlimit", "fcntl")


@pytest.mark.parametrize(
    ("machine", "numbers"),
    [("x86_64", (41, 257, 56, 62, 157, 302, 72)), ("aarch64", (198, 56, 220, 129, 167, 261, 25))],
)
def test_the_filter_of_each_machine_decides_as_it_says(machine, numbers):
    program, kind = call_filter(machine), MACHINES[machine]
    numbers = dict(zip(CALLS, numbers, strict=True))
    assert decided(program, kind, numbers["openat"]) == ALLOW
    assert decided(program, kind, numbers["socket"], 2) == EPERM
    assert decided(program, kind, numbers["kill"], 1, 0) == EPERM
    assert decided(program, kind, numbers["clone"], 0x10F00) == ALLOW  # a thread
    assert decided(program, kind, numbers["clone"], 0x11) == EPERM
    assert decided(program, kind, 435) == ENOSYS
    assert decided(program, kind, numbers["prctl"], 1) == EPERM
    assert decided(program, kind, numbers["prctl"], 15) == ALLOW
    assert decided(program, kind, numbers["prlimit"], 0, 9, 0) == ALLOW
    assert decided(program, kind, numbers["prlimit"], 0, 9, 1 << 40) == EPERM
    assert decided(program, kind, numbers["fcntl"], 3, 8) == EPERM
    assert decided(program, kind, numbers["fcntl"], 3, 1) == ALLOW
    assert decided(program, kind, 425) == EPERM
    assert decided(program, 0x40000003, 5) == KILL  # calls of 32-bit programs have other numbers
    assert call_filter("riscv64") is None
