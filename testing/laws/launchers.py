"""The laws of launchers are tried with three jobs that take no time."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from ...core.compose.blame import confined
from ...core.compose.named import Named
from ...plugins.launch.job import Job
from ..problems import laws, require

CODES = (0, 3, 0)


def _describes(named: Named) -> None:
    """A launcher says in lines of text where jobs would run."""
    with confined(named, "describe"):
        lines = named.component.describe()
    texts = isinstance(lines, list) and all(isinstance(line, str) for line in lines)
    require(named, "describe", texts, f"gave {lines!r}, not a list of texts")


def _runs(named: Named) -> None:
    """A launcher runs every job and gives their exit codes in order."""
    started: list[str] = []
    finished: list[int] = []
    with TemporaryDirectory() as folder:
        jobs = []
        for number, code in enumerate(CODES):
            words = (sys.executable, "-c", f"print('job {number}'); raise SystemExit({code})")
            jobs.append(Job(f"job-{number}", words, Path(folder) / f"{number}.log"))
        with confined(named, "run"):
            codes = named.component.run(
                jobs, lambda job: started.append(job.name), lambda _, code: finished.append(code)
            )
        require(named, "run", list(codes) == list(CODES), f"gave the exit codes {codes}, not {list(CODES)}")
        called = sorted(started) == sorted(job.name for job in jobs) and sorted(finished) == sorted(CODES)
        require(named, "run", called, "did not call on_start and on_finish once for each job")
        for number, job in enumerate(jobs):
            output = job.log.read_text("utf-8") if job.log.exists() else ""
            require(named, "run", f"job {number}" in output, "did not append a job's output to its log")


LAWS = {"launcher": laws(_describes, _runs, reaches_out=True)}
