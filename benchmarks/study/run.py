"""Run what is missing of the study, for some minutes.

    python benchmarks/study/run.py --rows DIR --minutes 9 --gpus 2 --per-gpu 7     # again and again, until all is there
    python benchmarks/study/run.py --rows DIR --list                               # what is there, what comes next
    python benchmarks/study/run.py --rows DIR --quick                              # a tiny model on a CPU, to try it

``plan.py`` says which runs there are, and in which order. Each run that ends is added, as a whole, to
``DIR/rows-*.jsonl.xz`` at once (``rows.py``). The next call, on this machine or another one, finds all rows in DIR and
in ``benchmarks/study/results``, and repeats none. A row belongs to the hash of its whole experiment, its seed included;
a row of another hash than the plan has is said to be stale, and counts for nothing. On every slot one run begins, and
then only runs that are expected to end in time, by the rows and by the runs of this call. What runs when the time is up
is ended, and leaves no row.

Runs are trained by the sweep machinery of the project, as ``uncollapse sweep run`` trains them, below ``--runs`` (by
default a temporary directory). Where ``--runs`` is the same directory again, a run that was interrupted goes on from
its last checkpoint. The checkpoints of a run that has ended are removed, unless ``--keep-checkpoints`` is given.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plan
import rows
import thin
from piece import Piece
from uncollapse.core.errors import UncollapseError
from uncollapse.core.runs import checkpoints
from uncollapse.core.runs.status import seconds
from uncollapse.plugins.launch.slots import visible_gpus
from uncollapse.plugins.sweeps.aside import matches
from uncollapse.plugins.sweeps.run import Options, run_points
from uncollapse.plugins.sweeps.skip_or_resume import Prepared

ENDED = ("success", "stopped")
"""Statuses of runs that have ended: they used their budget, or a detector stopped them."""
EXPECTED_S = 300.0
"""Seconds of a run, as long as none like it has ended."""
GRACE_S = 4.0
"""Seconds between two signals to a run for which the time is up."""
MOST = 64
"""Runs that are prepared at most, of those that come next."""
LEAST_LEFT = 0.3
"""Share of a run that is expected to be left of it at least, wherever its last checkpoint is: it has to start again."""
ENDING_S = 20.0
"""Seconds before the end at which runs are ended, so that the call itself ends in time."""
MEMORY = "UNCOLLAPSE_GPU_MEMORY"
RESULTS = Path(__file__).with_name("results")


class Driver:
    """One call: what is there, what is missing, and what becomes of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.size = plan.QUICK if options.quick else plan.FULL
        self.sweep = plan.study(self.size)
        self.points = self.sweep.points()
        self.deadline = time.monotonic() + 60 * options.minutes - ENDING_S
        options.rows.mkdir(parents=True, exist_ok=True)
        archives = [row for directory in (options.rows, *options.have) for row in rows.read(directory)]
        self.rows = rows.by_hash([*archives, *thin.read(RESULTS)], {point.hash for point in self.points})
        self.seconds = [(row["values"], float(row["seconds"])) for row in self._like(self.rows.values())]
        self.values = {point.label: point.values for point in self.points}
        self.name = f"rows-{time.strftime('%Y%m%d-%H%M%S')}"
        self.written: list[str] = []
        self.prepared: dict[str, Prepared] = {}

    def _like(self, known: Any) -> list[dict[str, Any]]:
        """Rows that tell how long a run takes here: of the same machine, with as many runs side by side."""
        return [row for row in known if row["side_by_side"] == self.side_by_side and row["gpus"] == self.options.gpus]

    @property
    def side_by_side(self) -> int:
        return int(self.options.per_gpu * max(1, self.options.gpus))

    def missing(self) -> list[Any]:
        """The points without a row, the one that comes next first."""
        return [point for point in plan.in_order(self.points, self.size) if point.hash not in self.rows]

    def expected(self, label: str) -> float:
        """Seconds that a run will take: the most that one of the same task and algorithm took, or of any."""
        values = self.values[label]
        longest = 0.0 if self.options.quick else EXPECTED_S
        for same in (("task", "algorithm", "remedy"), ("task", "algorithm"), ("task",), ()):
            if known := [took for each, took in self.seconds if all(each[key] == values[key] for key in same)]:
                longest = max(known)
                break
        begun = self.prepared[label].run.latest()
        left = 1 - checkpoints.step_of(begun) / self.prepared[label].experiment.trainer.steps if begun else 1.0
        return max(left, LEAST_LEFT) * longest

    def run(self) -> None:
        """Train what is missing until the time is up. Raises RequestError if it cannot be trained here."""
        self.prepared = prepared = {point.label: point for point in self.sweep.prepared(self.options.runs)}
        for point in prepared.values():
            if point.hash not in self.rows and matches(point.record().get("status", ""), ENDED):
                # a kill came before its row
                self._ended(point, 0, seconds(point.record()) or 0.0)
        todo = [point.label for point in self.missing()][:MOST]
        if not todo:
            return
        gpus = tuple(visible_gpus()[: self.options.gpus]) or None
        launcher = Piece(
            slots=self.side_by_side, gpus=gpus, grace_s=GRACE_S, deadline=self.deadline, expected=self.expected,
            ended=lambda label, code, took: self._ended(prepared[label], code, took),
        )  # fmt: skip
        alarm = threading.Timer(max(0.0, self.deadline - time.monotonic()), os.kill, (os.getpid(), signal.SIGTERM))
        alarm.daemon = True
        alarm.start()
        chosen = [prepared[label] for label in todo]
        try:
            run_points(self.sweep.record(list(prepared.values())), chosen, launcher, Options(ENDED, 1, "keep"))
        except KeyboardInterrupt:
            print("the time is up, or the call was interrupted: what still ran leaves no row")
            self._tell_interrupted(chosen)
        finally:
            alarm.cancel()
            if launcher.refused:
                print(f"no time for {len(launcher.refused)} runs, the first of them {launcher.refused[0]}")

    def _tell_interrupted(self, points: Sequence[Prepared]) -> None:
        """Say how far the runs came that were interrupted, and how long they would have taken."""
        for point in points:
            record = point.run.status()
            if record.get("status") == "interrupted" and (known := point.run.metrics()):
                step, took = int(known[-1]["step"]), seconds(record) or 0.0
                pace = statistics.median(each.get("timing_s/step") or 0.0 for each in known)
                print(f"{point.title}: step {step} after {took:.0f} s, {pace:.1f} s a step", flush=True)

    def _ended(self, point: Prepared, code: int, took: float) -> None:
        """Keep the row of a run that has ended; one that failed says so, and is tried again by the next call."""
        status = point.run.status()
        if not matches(status.get("status", ""), ENDED):
            print(f"{point.title}: no row ({status.get('status')}, exit code {code})", flush=True)
            log = point.run.path / "log.txt"
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            print("\n".join(f"    {line}" for line in lines[-15:]), flush=True)
            return
        about = {"side_by_side": self.side_by_side, "gpus": self.options.gpus, "quick": self.options.quick}
        took = max(took, seconds(status) or 0.0)
        row = rows.packed(point.label, point.values, point.run.path, seconds=took, **about)
        file = rows.append(row, self.options.rows, self.name)
        self.rows[row["hash"]] = row
        for checkpoint in () if self.options.keep_checkpoints else point.run.checkpoints():
            checkpoints.remove(checkpoint)
        self.seconds.append((point.values, took))
        self.written.append(point.label)
        print(f"{point.title}: row {len(self.written)} of this call, {took:.0f} s, in {file.name}", flush=True)

    def account(self, names: bool = False) -> None:
        """Say what is there, what is stale, and what comes next."""
        hashes = {point.hash for point in self.points}
        kinds = [pair for pair in self.rows.items() if pair[1]["quick"] == self.options.quick]
        stale = sorted(row["label"] for digest, row in kinds if digest not in hashes)
        missing = self.missing()
        print(f"{len(self.points) - len(missing)} of {len(self.points)} runs are there, {len(missing)} are missing")
        if stale:
            print(f"{len(stale)} rows are stale, of experiments that the plan no longer has: {', '.join(stale)}")
        for point in missing if names else missing[:1]:
            print(f"{'missing' if names else 'next'}: {point.label} ({point.hash})")


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, metavar="DIR", help="where rows are read, and written")
    parser.add_argument("--have", type=Path, action="append", default=[], metavar="DIR", help="more rows, only read")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which the call ends")
    parser.add_argument("--gpus", type=int, help="GPUs to use (default: all)")
    parser.add_argument("--per-gpu", type=int, help="runs side by side on a GPU (7), or on the CPU (1)")
    parser.add_argument("--runs", type=Path, help="where run directories are written (default: a temporary directory)")
    parser.add_argument(
        "--keep-checkpoints", action="store_true", help="keep the last checkpoint of each run, for probes"
    )
    parser.add_argument("--list", action="store_true", help="say what is there and what is missing, and run nothing")
    parser.add_argument("--quick", action="store_true", help="tiny runs on a CPU, to try the driver out")
    options = parser.parse_args(words)
    found = len(visible_gpus()) if options.gpus is None or options.gpus else 0
    if options.gpus is not None and options.gpus > found:
        parser.error(f"--gpus {options.gpus}: this machine has {found}")
    if not (options.minutes > 0 and (options.per_gpu is None or options.per_gpu > 0)):
        parser.error("--minutes and --per-gpu have to be above 0")
    options.gpus = found if options.gpus is None else options.gpus
    options.per_gpu = options.per_gpu or (7 if options.gpus else 1)
    if not options.quick and not options.gpus and not options.list:
        parser.error("this machine has no GPU: --quick tries the driver out, --list says what is missing")
    options.runs = options.runs or Path(tempfile.mkdtemp(prefix="study-"))
    return options


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    # rows stay shorter than they may become, and what does die for memory is tried again: no run is refused for less
    os.environ.setdefault(MEMORY, "all")
    try:
        driver = Driver(options)
        if not options.list:
            driver.run()
        driver.account(options.list)
    except UncollapseError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
