"""math-verify is asked in a separate process: an answer that takes too much time or memory costs that process alone."""

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

_START_S = 300.0
"""Seconds that the process may take to start, on a machine that may be very busy."""
_WAIT_S = 60.0
"""Seconds that an answer may take. Its processor time is bounded, but a machine may be very busy."""


@lru_cache(maxsize=4096)
def equal(right: str, answer: str) -> bool | str | None:
    """Say whether two expressions in LaTeX are equal, by math-verify.

    Returns:
        Whether they are equal; ``None`` if the answer cannot be read within the limits; ``"right"`` if the right
        answer cannot be read.

    Raises:
        MissingExtraError: math-verify is not installed.
        RunError: the process cannot be started.
    """
    # the process answers one question at a time
    with _LOCK:
        # a fork must not share the process with its parent
        if _ASKED.process != os.getpid():
            _ASKED.forget()
        try:
            return _ASKED.ask(right, answer)
        except BaseException:
            # the answer that is still to come would be taken for that of the next question
            _ASKED.end()
            raise


@attrs.define
class _Asked:
    """The process that is asked is started for the first question, and again after each question that ends it."""

    worker: subprocess.Popen[bytes] | None = None
    """Process that answers, once it is started."""
    process: int = attrs.field(factory=os.getpid)
    """Id of the process that has started it."""

    def ask(self, right: str, answer: str) -> bool | str | None:
        """Ask one question; the result is that of :func:`equal`."""
        worker = self.worker or self._start()
        assert worker.stdin is not None
        question = json.dumps([right, answer]).encode() + b"\n"
        try:
            worker.stdin.write(question)
            worker.stdin.flush()
        except BrokenPipeError:
            # somebody has ended it between two questions
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
        """End the process, if this process has started it."""
        worker = self.worker
        is_parent = self.process == os.getpid()
        self.forget()
        if worker is not None and is_parent:
            worker.kill()
            worker.communicate()

    def forget(self) -> None:
        """Forget the process without ending it."""
        self.worker = None
        self.process = os.getpid()

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
    """Read the next line of the process; ``None`` if it ends before, or takes longer."""
    assert worker.stdout is not None
    if not select.select([worker.stdout], [], [], seconds)[0]:
        return None
    return worker.stdout.readline() or None


def _require() -> None:
    """Raise MissingExtraError if math-verify is not installed."""
    try:
        spec = importlib.util.find_spec("math_verify")
    except ValueError:
        spec = None
    if spec is None:
        raise MissingExtraError(
            "math-verify is not installed", "verifier: math", "pip install 'uncollapse[train]', or use verifier: exact"
        )


_ASKED = _Asked()
_LOCK = threading.Lock()
atexit.register(_ASKED.end)
