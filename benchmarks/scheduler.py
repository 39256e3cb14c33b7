"""The launcher `local` schedules 164 processes of uneven length on 8 slots, against list scheduling on paper.

    python benchmarks/scheduler.py [--seconds 60]

The jobs are real processes that sleep; their lengths are log-normal (sigma 0.7, seeded), scaled so that the whole takes
about `--seconds`. One unit is the mean length. List scheduling gives each job, in the same order, to the slot that is
free first; its durations are those that the jobs measured themselves, so the difference is what the launcher costs
(starting an interpreter included). Beside it, computed from the same durations: longest first, and batches of 8 with a
pause of 30 s after each, where a run takes 20 minutes on average. Ends with 1 above 1.02 times list scheduling.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.local import Local

JOBS, SLOTS, SIGMA, LIMIT = 164, 8, 0.7, 1.02
RUN_S, PAUSE_S = 20 * 60, 30
JOB = """
import os, sys, time
from pathlib import Path
stat = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
age = float(Path("/proc/uptime").read_text().split()[0]) - int(stat[19]) / os.sysconf("SC_CLK_TCK")
time.sleep(float(sys.argv[1]))
Path(sys.argv[2]).write_text(str(age + float(sys.argv[1])))
"""


def list_scheduling(lengths: Sequence[float]) -> float:
    """The makespan if each job, in order, goes to the slot that is free first."""
    free = [0.0] * SLOTS
    for length in lengths:
        heapq.heappush(free, heapq.heappop(free) + length)
    return max(free)


def batches(lengths: Sequence[float], pause: float) -> float:
    """The makespan if each batch waits for all of the one before it, and then for the pause."""
    longest = [max(lengths[first : first + SLOTS]) for first in range(0, len(lengths), SLOTS)]
    return sum(longest) + pause * (len(longest) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    seconds = parser.parse_args().seconds
    draws = random.Random(0)
    lengths = [draws.lognormvariate(0, SIGMA) for _ in range(JOBS)]
    scale = seconds / list_scheduling(lengths)
    lengths = [length * scale for length in lengths]

    with tempfile.TemporaryDirectory() as folder:
        records = [Path(folder) / str(index) for index in range(JOBS)]
        jobs = [
            Job(
                record.name,
                (sys.executable, "-I", "-S", "-c", JOB, str(length), str(record)),
                record.with_suffix(".log"),
            )
            for record, length in zip(records, lengths, strict=True)
        ]
        start = time.perf_counter()
        codes = Local(slots=SLOTS).run(jobs)
        makespan = time.perf_counter() - start
        if any(codes):
            raise SystemExit("a job failed")
        actual = [float(record.read_text()) for record in records]

    mean = sum(actual) / JOBS
    paper = list_scheduling(actual)
    rows = {
        "launcher local, measured": makespan,
        "list scheduling, same order": paper,
        "list scheduling, longest first": list_scheduling(sorted(actual, reverse=True)),
        "no schedule can be shorter": max(sum(actual) / SLOTS, *actual),
        f"batches of {SLOTS}, pauses of {PAUSE_S} s in {RUN_S // 60} min": batches(actual, mean * PAUSE_S / RUN_S),
        f"batches of {SLOTS}, no pauses": batches(actual, 0),
    }
    print(f"{JOBS} jobs on {SLOTS} slots, mean {mean:.2f} s, longest {max(actual):.2f} s, shortest {min(actual):.2f} s")
    print(f"{'':<42} {'seconds':>8} {'ratio':>7}")
    for name, value in rows.items():
        print(f"{name:<42} {value:>8.2f} {value / paper:>7.4f}")
    if makespan > LIMIT * paper:
        raise SystemExit(f"over the limit of {LIMIT} times list scheduling")


if __name__ == "__main__":
    main()
