"""Every remedy of ``uncollapse sweep run interventions`` is timed against the baseline, PPO, in one process.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/interventions.py [--only gspo,nsr] [--kind policy_loss]

A session of tiny-sokoban, started for each remedy, takes one step to warm up and then takes its second step again and
again, in turns with a session of the baseline. Seconds are processor seconds of all threads, which hardly depend on who
else is busy, and the least of the repeats. Episodes are played once and kept with the seconds that this took: whoever
asks for the same tasks with the same noise is given them, and is charged those seconds. So all sessions learn from the
same tokens, unless the remedy itself asks for others.

The seconds of a step fall apart into passes and the rest. Passes are: playing episodes, greedy ones apart; scoring with
the policy, the reference or the critic; the update of the critic; the forward and backward passes of the policy's
update. A remedy causes passes only by what it declares (``needs``, ``kl.coef``, ``entropy.coef``), or by sampling or
training more or fewer rows: no component is handed a model. All else is the rest, the loss of the update with its own
part of the backward pass included. ``beyond`` is how much longer the rest is than the baseline's, in percent of a step
of the baseline; ``noise`` is what 19 of 20 comparisons of the baseline with itself stay below.

The exit code is 1 if a remedy is beyond by more than ``--limit`` percent and the noise.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import torch
from step_account import PASSES, REST, Recording, Session, Step, least
from uncollapse.core.compose.combinations import needs
from uncollapse.core.compose.config import compose
from uncollapse.core.compose.experiment import Experiment
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.plugins.sweeps.interventions import AXIS, Interventions

VISIBLE = 0.02
"""Share of the baseline's step from which on a pass that both have is said to differ."""


@attrs.frozen
class Comparison:
    """A remedy beside the baseline, measured in turns."""

    name: str
    needs: frozenset[str]
    step: Step
    baseline: Step

    @property
    def beyond(self) -> float:
        """Share of the baseline's step by which all that is no pass takes longer."""
        return (self.step.seconds[REST] - self.baseline.seconds[REST]) / self.baseline.total

    @property
    def passes(self) -> str:
        """The passes that only one of the two has, or that clearly differ, with the difference in seconds."""
        differences = []
        for name in PASSES:
            here, there = (step.seconds.get(name, 0.0) for step in (self.step, self.baseline))
            if (here > 0) != (there > 0) or abs(here - there) > VISIBLE * self.baseline.total:
                differences.append(f"{name} {here - there:+.3f}")
        return ", ".join(differences)

    def line(self) -> str:
        """Return the line of the table."""
        total, of_ppo = self.step.total, self.step.total / self.baseline.total
        return row(
            self.name,
            f"{total:.3f}",
            f"{of_ppo:.2f}",
            f"{100 * self.beyond:+.1f}",
            self.step.episodes,
            self.step.rows,
            ", ".join(sorted(self.needs)) or "-",
            self.passes,
        )


def row(name: str, *cells: object) -> str:
    """Return a line of the table, whose last two columns are words."""
    *numbers, declared, passes = cells
    return f"{name:<44} {' '.join(f'{number:>8}' for number in numbers)}  {declared:<32} {passes}".rstrip()


def noise(comparisons: Sequence[Comparison]) -> float:
    """Return what 19 of 20 differences of the baseline from itself stay below, as a share of a step.

    It is compared with the baseline of the next turn, and with the session that the first of the comparisons is.
    """
    rests = [one.baseline.seconds[REST] for one in comparisons]
    rests.insert(0, comparisons[0].step.seconds[REST])
    changes = sorted(abs(later - earlier) for earlier, later in pairwise(rests))
    return changes[math.ceil(0.95 * (len(changes) - 1))] / comparisons[0].baseline.total


def compare(cases: Sequence[Mapping[str, Any]], base: Experiment, repeats: int) -> Iterator[Comparison]:
    """Measure the cases one after the other; the first of them is the baseline itself."""
    warm_up = Session(base, Recording())
    warm_up.step()
    warm_up.close()
    gc.freeze()
    recording = Recording()
    baseline = Session(base, recording)
    for case in cases:
        experiment = compose(base, case["overrides"])
        session = Session(experiment, recording)
        turns = [(session.step(), baseline.step()) for _ in range(repeats)]
        session.close()
        here, there = zip(*turns, strict=True)
        wanted = needs(experiment) - {"scorer"}
        yield Comparison(case["values"][AXIS], wanted, least(here), least(there))
    baseline.close()


def table(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield the lines of the result: the baseline, then what costs the most beyond its passes."""
    itself, *others = comparisons
    seconds = itself.baseline.seconds
    parts = ", ".join(f"{name} {seconds[name]:.3f}" for name in (*PASSES, REST) if name in seconds)
    yield f"a step of the baseline takes {itself.baseline.total:.3f} s: {parts}"
    yield f"noise: {100 * noise(comparisons):.2f} % of a step"
    yield row("remedy", "step s", "of ppo", "beyond %", "episodes", "rows", "needs", "passes that differ, s")
    yield itself.line()
    for one in sorted(others, key=lambda one: one.beyond, reverse=True):
        yield one.line()


def machine() -> Iterator[str]:
    """Yield the lines that say when and on what the numbers were measured."""
    info = Path("/proc/cpuinfo")
    described = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in described if line.startswith("model name")]
    processor = models[0] if models else platform.machine()
    yield f"{date.today()}; {processor}, {os.cpu_count()} cores; {torch.get_num_threads()} threads; {load()}"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "deepspeed"))
    yield f"Python {platform.python_version()}, {libraries}"


def load() -> str:
    return "load average " + ", ".join(f"{value:.1f}" for value in os.getloadavg())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of remedies, with commas; all by default")
    parser.add_argument("--kind", default="", help="kinds of remedies, with commas; all by default")
    parser.add_argument("--plugin", type=Path, action="append", default=[], help="Python file with more remedies")
    parser.add_argument("--repeats", type=int, default=3, help="measured steps of each remedy")
    parser.add_argument("--limit", type=float, default=5.0, help="percent of a step of the baseline")
    parser.add_argument("--out", type=Path, help="file for the result as well")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats: at least 1")
    # the time of the processor would miss what a GPU does
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    try:
        for path in options.plugin:
            registry().load_file(path)
        record = Interventions(only=options.only, kind=options.kind).record()
    except RequestError as error:
        parser.error(str(error))
    # what the sweep adds to measure mutual information would be paid by all alike, in every fifth step
    off = {key: value for key, value in record["set"].items() if key != "collapse"}
    base = compose(record["experiment"], off)

    lines = list(machine())
    comparisons: list[Comparison] = []
    started = time.perf_counter()
    for one in compare(record["cases"], base, options.repeats):
        comparisons.append(one)
        print(f"{len(comparisons):>3} of {len(record['cases'])}: {one.line()}", file=sys.stderr)
    allowed = options.limit / 100 + noise(comparisons)
    costly = [one.name for one in comparisons if one.beyond > allowed]
    lines += [*table(comparisons), *record["notices"]]
    lines.append(f"beyond {options.limit:g} % and the noise: {', '.join(costly) or 'none'}")
    lines.append(f"{len(comparisons)} sessions in {time.perf_counter() - started:.0f} s; {load()} at the end")
    print(*lines, sep="\n")
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")
    return 1 if costly else 0


if __name__ == "__main__":
    sys.exit(main())
