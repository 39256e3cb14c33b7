"""The start-up of the command line is timed against `python -c pass`, interleaved in the same run.

    python benchmarks/startup.py [--repeats 20]

Prints the fastest and the median wall time of each command and its ratio to the bare interpreter (medians), beside the
limits that we hold ourselves to: `--help` in 0.15 s, `list` and `plugins` in 0.30 s. Ends with 1 if the fastest of a
command's runs is over: on a busy machine, look at the ratios.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time

BARE = [sys.executable, "-c", "pass"]
LIMITS = {"--help": 0.15, "--version": 0.15, "list": 0.30, "list kl": 0.30, "plugins": 0.30}


def seconds(command: list[str]) -> float:
    """Wall time of one run of a command."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    program = shutil.which("uncollapse")
    if program is None:
        raise SystemExit("uncollapse is not on the path: activate the environment that it is installed in")

    commands = {"python -c pass": BARE, "import torch": [sys.executable, "-c", "import torch"]}
    commands |= {f"uncollapse {arguments}": [program, *arguments.split()] for arguments in LIMITS}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for command in commands.values():
        seconds(command)  # compiles the bytecode, fills the file cache
    for _ in range(repeats):
        for name, command in commands.items():
            if name != "import torch" or len(times[name]) < 3:
                times[name].append(seconds(command))

    bare = statistics.median(times["python -c pass"])
    print(f"{'command':<24} {'fastest':>8} {'median':>8} {'ratio':>6} {'limit':>6}   (seconds)")
    slow = []
    for name, measured in times.items():
        median, limit = statistics.median(measured), LIMITS.get(name.removeprefix("uncollapse "))
        print(f"{name:<24} {min(measured):>8.3f} {median:>8.3f} {median / bare:>6.1f} {limit or '':>6}")
        if limit and min(measured) > limit:
            slow.append(name)
    if slow:
        raise SystemExit(f"over the limit: {', '.join(slow)}")


if __name__ == "__main__":
    main()
