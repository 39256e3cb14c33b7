"""A module of this package is asked in a separate process: a question that takes too much costs that process alone."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import attrs

from .errors import RunError

READY = "ready"
"""First line that such a process writes."""
_START_S = 300.0
"""Seconds that the process may take to start, on a machine that may be very busy."""


@attrs.define
class AskedProcess:
    """A process that reads a line of JSON for each question, and writes one for each answer.

    It is started for the first question, and again after each question that ends it. It answers one at a time.
    """

    module: str
    """Full name of the module that is run."""
    where: str
    """Setting that asks, for messages."""
    wait: float = 300.0
    """Seconds that an answer may take. Processes bound their own processor time, but a machine may be very busy."""
    worker: subprocess.Popen[bytes] | None = None
    """Process that answers, once it is started."""
    process: int = attrs.field(factory=os.getpid)
    """Id of the process that has started it."""
    lock: Any = attrs.field(factory=threading.Lock)

    def ask(self, question: Any) -> Any:
        """Ask one question; ``None`` if the process ended over it. Raises RunError if the process cannot be started."""
        with self.lock:
            # a fork must not share the process with its parent
            if self.process != os.getpid():
                self.forget()
            try:
                return self._ask(json.dumps(question).encode() + b"\n")
            except BaseException:
                # the answer that is still to come would be taken for that of the next question
                self.end()
                raise

    def _ask(self, question: bytes) -> Any:
        try:
            _write(self.worker or self._start(), question)
        except BrokenPipeError:
            # somebody has ended it between two questions
            self.end()
            _write(self._start(), question)
        assert self.worker is not None
        line = _line(self.worker, self.wait)
        if line is None:
            self.end()
            return None
        return json.loads(line)

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
        package = __name__.partition(".")[0]
        root = Path(sys.modules[package].__path__[0])
        # this process may have found the package where a new one would not look
        roots = [os.environ.get("PYTHONPATH", ""), str(root.parent) if root.name == package else ""]
        path = os.pathsep.join(filter(None, roots))
        self.worker = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # the order of sets is part of what some libraries generate
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        )
        if (_line(self.worker, _START_S) or b"").strip() != json.dumps(READY).encode():
            self.end()
            raise RunError("a separate process does not start", self.where, f"see what `python -m {self.module}` says")
        return self.worker


def _write(worker: subprocess.Popen[bytes], question: bytes) -> None:
    assert worker.stdin is not None
    worker.stdin.write(question)
    worker.stdin.flush()


def _line(worker: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """Read the next line of the process; ``None`` if it ends before, or takes longer."""
    assert worker.stdout is not None
    if not select.select([worker.stdout], [], [], seconds)[0]:
        return None
    return worker.stdout.readline() or None
