"""W&B runs that were recorded offline are uploaded beside training: each run's own directories, never fatally."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from ...core.errors import UncollapseError
from ...core.runs.directory import RunDirectory

COMMAND = (sys.executable, "-m", "wandb", "sync", "--yes")
TIMEOUT_S = 600.0
NO_ANSWER = "no answer from W&B"


def offline_directories(run: RunDirectory) -> list[Path]:
    """List what W&B recorded offline for a run, one directory per process that it had."""
    return sorted((run.path / "wandb").glob("offline-run-*"))


def waiting(run: RunDirectory) -> list[Path]:
    """List the directories that have not been uploaded: W&B puts a ``.synced`` file beside what it has uploaded."""
    return [path for path in offline_directories(run) if not list(path.glob("*.wandb.synced"))]


def sync(run: RunDirectory, command: tuple[str, ...] = COMMAND) -> str:
    """Upload what is waiting and record it in the run's status; returns the error, empty if there was none."""
    failed = ""
    for directory in waiting(run):
        try:
            done = subprocess.run(
                [*command, str(directory.resolve())],
                cwd=run.path,  # it keeps logs of its own in the working directory
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
            if done.returncode or directory in waiting(run):
                failed = (done.stderr or done.stdout).strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            failed = f"{NO_ANSWER} within {TIMEOUT_S:.0f} s"
            break
        except OSError as error:
            failed = str(error)
    record = run.status()
    entry = {**record.get("wandb", {}), "offline": len(offline_directories(run)), "waiting": len(waiting(run))}
    entry.pop("sync_error", None)
    run.annotate(wandb={**entry, "sync_error": failed} if failed else entry)
    return failed


class Syncer:
    """A syncer uploads runs one after the other in a thread of its own, so that no slot waits for the network.

    Where W&B does not answer, nothing more is tried.
    """

    def __init__(self, when: Literal["each", "end", "never"], command: tuple[str, ...] = COMMAND) -> None:
        self.when, self.command = when, command
        self.errors: dict[Path, str] = {}
        self._queue: SimpleQueue[RunDirectory | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def ended(self, run: RunDirectory) -> None:
        """Take a run that has ended."""
        if self.when == "each":
            self._put(run)

    def close(self, runs: Iterable[RunDirectory]) -> Mapping[Path, str]:
        """Try what is still waiting, of this or an earlier time, once the sweep has ended.

        Returns what could not be uploaded, with why.
        """
        if self.when == "never":
            return {}
        for run in runs:
            if waiting(run) and not run.locked():
                self._put(run)
        if self._thread:
            self._queue.put(None)
            self._thread.join()
        return {path: error for path, error in self.errors.items() if error}

    def _put(self, run: RunDirectory) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._queue.put(run)

    def _work(self) -> None:
        while (run := self._queue.get()) is not None:
            if not waiting(run) or any(error.startswith(NO_ANSWER) for error in self.errors.values()):
                continue
            try:
                self.errors[run.path] = sync(run, self.command)
            except (UncollapseError, OSError) as error:  # its record cannot be read or written
                self.errors[run.path] = str(error)
