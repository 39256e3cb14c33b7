"""Servers of OpenEnv for tests, each in a process of its own on a free port of this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HANGS, RAISES, RUBBISH, DRIFTS = 10013, 10003, 10007, 10005
"""Seeds for which a game goes wrong: ``faulty`` in its first step, ``drifting`` at its start."""
DIES = "OPENENV_TEST_DIES"
"""Environment variable with the seed at whose first step the server of the game ``faulty`` ends."""
SCRIPT = Path(__file__).parent / "openenv_server.py"


def free_port():
    """A port that nobody listens to."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextlib.contextmanager
def serving(sessions, *games, port=0, dies=""):
    """A server that takes this number of sessions of each game: its process and its address."""
    port = port or free_port()
    command = [sys.executable, str(SCRIPT), str(port), str(sessions), *games]
    process = subprocess.Popen(command, env={**os.environ, DIES: str(dies)})
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def wait_for(url, process):
    """Wait until a server answers. ``url`` has a game."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5) as page:
            if page.status == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"the server {url} does not start")
