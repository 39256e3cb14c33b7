"""Asking math-verify in a process of its own: an answer that takes too much time or memory costs that process alone."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

import attrs

from ...core.errors import MissingExtraError, RunError
from .math_worker import READY

_START_S, _WAIT_S = 300.0, 60.0
"""Seconds, of the clock, for what is bounded by processor time: a machine may be very busy."""


@lru_cache(maxsize=4096)
def equal(right: str, answer: str) -> bool | str | None:
    """Whether two expressions in LaTeX are equal, by math-verify.

    Returns:
        ``None`` if the answer cannot be read, or not within the limits; ``"right"`` if the right one cannot.

    Raises:
        MissingExtraError: math-verify is not installed.
        RunError: the process cannot be started.
    """
    with _LOCK:  # a process answers one question at a time
        if _ASKED.process != os.getpid():  # a fork must not share it
            _ASKED.forget()
        try:
            return _ASKED.ask(right, answer)
        except BaseException:
            _ASKED.end()  # the answer that is still to come would be taken for that of the next question
            raise


@attrs.define
class _Asked:
    """The process that is asked, started with the first question and after each that has cost it its life."""

    worker: subprocess.Popen[bytes] | None = None
    process: int = attrs.field(factory=os.getpid)
    """Whose child it is."""

    def ask(self, right: str, answer: str) -> bool | str | None:
        worker = self.worker or self._start()
        assert worker.stdin is not None
        question = json.dumps([right, answer]).encode() + b"\n"
        try:
            worker.stdin.write(question)
            worker.stdin.flush()
        except BrokenPipeError:  # somebody has ended it between two questions
            self.end()
            worker = self._start()
            worker.stdin.write(question)  # type: ignore[union-attr]
            worker.stdin.flush()  # type: ignore[union-attr]
        line = _line(worker, _WAIT_S)
        if line is None:
            self.end()
            return None
        verdict: bool | str | None = json.loads(line)
        return verdict

    def end(self) -> None:
        worker, own = self.worker, self.process == os.getpid()
        self.forget()
        if worker is not None and own:
            worker.kill()
            worker.communicate()

    def forget(self) -> None:
        self.worker, self.process = None, os.getpid()

    def _start(self) -> subprocess.Popen[bytes]:
        _require()
        package = __name__.partition(".plugins.")[0]
        root = Path(sys.modules[package].__path__[0])
        # this process may have found the package where a new one would not look
        roots = [os.environ.get("PYTHONPATH", ""), str(root.parent) if root.name == package else ""]
        self.worker = subprocess.Popen(
            [sys.executable, "-m", f"{package}.plugins.environments.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, roots)), "OMP_NUM_THREADS": "1"},
        )
        if (_line(self.worker, _START_S) or b"").strip() != json.dumps(READY).encode():
            raise RunError(
                "the process that asks math-verify does not start",
                "verifier: math",
                f"see what `python -m {package}.plugins.environments.math_worker` says, or use verifier: exact",
            )
        return self.worker


def _line(worker: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """The next line that it writes; ``None`` if it ends before, or takes longer."""
    assert worker.stdout is not None
    if not select.select([worker.stdout], [], [], seconds)[0]:
        return None
    return worker.stdout.readline() or None


def _require() -> None:
    try:
        found = importlib.util.find_spec("math_verify")
    except ValueError:
        found = None
    if found is None:
        raise MissingExtraError(
            "math-verify is not installed", "verifier: math", "pip install 'uncollapse[train]', or use verifier: exact"
        )


_ASKED = _Asked()
_LOCK = threading.Lock()
atexit.register(_ASKED.end)
