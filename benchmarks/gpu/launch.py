"""Processes that train together, one a GPU, as a launcher starts them: what they report, and an end to those that hang.

What they print goes to files, and only the end of what a failed one printed is shown.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uncollapse.plugins.training.processes.rank_processes import end, free_port

POLL_S = 0.1
SHOWN = 30
"""Lines of a failed process' output."""
_RAISED = re.compile(r"(?:\[rank\d+\]: )?(?P<what>[\w.]+(?:Error|Exception|SystemExit)\b.*)")


class ProcessError(Exception):
    """What became of processes that did not do their work."""


def reports(command: Sequence[str], world: int, limit_s: float) -> Iterator[dict[str, Any]]:
    """What ``command --results FILE`` says on ``world`` ranks, each thing as soon as it is said (:func:`report`).

    Args:
        limit_s: how long the processes may be silent.

    Raises:
        ProcessError: one of them failed or they were silent for too long; none is left.
    """
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        results = folder / "results"
        results.touch()
        processes = _start([sys.executable, *command, "--results", str(results)], world, folder)
        try:
            heard, unread = time.monotonic(), ""
            with results.open() as file:
                while True:
                    codes = [process.poll() for process in processes]  # first, so that no last words are missed
                    *lines, unread = (unread + file.read()).split("\n")
                    yield from map(json.loads, lines)
                    heard = time.monotonic() if lines else heard
                    failed = next((rank for rank, code in enumerate(codes) if code), None)
                    if failed is not None:  # the others would wait for it
                        log = folder / f"rank-{failed}.log"
                        raise ProcessError(f"rank {failed}: {_last_words(log, codes[failed])}")
                    if None not in codes:
                        return
                    if time.monotonic() - heard > limit_s:
                        raise ProcessError(f"silent for {limit_s:.0f} s: {_last_words(folder / 'rank-0.log', None)}")
                    time.sleep(POLL_S)
        finally:
            end(processes)


def report(results: str, found: Mapping[str, Any]) -> None:
    """Of a process that :func:`reports` started."""
    with Path(results).open("a") as file:
        file.write(json.dumps(dict(found)) + "\n")


def _start(command: list[str], world: int, folder: Path) -> list[subprocess.Popen[bytes]]:
    port = str(free_port())
    processes = []
    for rank in range(world):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_WAIT_POLICY": "passive"}
        with (folder / f"rank-{rank}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(command, env={**os.environ, **place}, stdout=log, stderr=subprocess.STDOUT)
            )
    return processes


def _last_words(log: Path, code: int | None) -> str:
    """Show the end of what a process printed; the line that says why it ended."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    print("\n".join(["", *lines[-SHOWN:], ""]), file=sys.stderr, flush=True)
    raised = [match["what"] for line in lines if (match := _RAISED.match(line))]
    last = raised[-1] if raised else lines[-1] if lines else "it printed nothing"
    return last if code is None else f"{last} (exit code {code})"
