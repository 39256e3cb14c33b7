"""Jobs to launch, and whether processes are there."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from uncollapse.plugins.launch.job import Job

OBEDIENT = """
import os, sys, time
open(sys.argv[1], "w").write(str(os.getpid()))
try:
    time.sleep(600)
except KeyboardInterrupt:
    open(sys.argv[1] + ".interrupted", "w").close()
"""

STUBBORN = """
import os, signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


def python(tmp_path: Path, name: str, code: str, **env: str) -> Job:
    return Job(name, (sys.executable, "-S", "-c", code), tmp_path / f"{name}.log", env)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def gone(pid: int, within_s: float = 10) -> bool:
    deadline = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def read_when_there(path: Path, within_s: float = 20) -> str:
    deadline = time.monotonic() + within_s
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline, f"{path} was never written"
        time.sleep(0.02)
    return path.read_text()
