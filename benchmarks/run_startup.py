"""The start of a `tiny-sokoban` run, up to its second step, is timed as its own process and as a fork of one that has
imported everything.

    python benchmarks/run_startup.py [--runs 4]

For 1 and 2 slots of this machine, `--runs` runs of `uncollapse train tiny-sokoban` with one step and the validation
before it, through the launcher `local`, once without and once with modules to preload; medians in seconds of wall time.
The first forked run waits for the imports of the server; it is shown on its own. The parts are those that a run writes
into its metrics; "imports" is what is left of the process: imports, composing the experiment, leaving. "fixed" is the
whole without the training step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.local import Local

PRELOAD = (
    "deepspeed",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.qwen2.modeling_qwen2",
    "uncollapse.plugins.training.train",
    "uncollapse.plugins.training.deepspeed_backend",
)
SETTINGS = ("trainer.steps=1", "validation.every=1000", "validation.before_train=true", "trackers=[jsonl]")
COLUMNS = ("whole", "fixed", "imports", "models, DeepSpeed", "validation", "step", "last validation", "rest")


def runs(count: int, slots: int, preload: tuple[str, ...]) -> list[dict[str, float]]:
    """The parts of each run, in the order in which they ended."""
    began: dict[str, float] = {}
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        command = [sys.executable, "-m", "uncollapse.cli.main", "train", "tiny-sokoban", *settings, "--run-dir"]
        paths = [Path(folder) / str(index) for index in range(count)]
        jobs = [Job(path.name, (*command, str(path)), path.with_suffix(".log"), preload=preload) for path in paths]

        def finish(job: Job, code: int) -> None:
            seconds = time.perf_counter() - began[job.name]
            if code:
                raise SystemExit(job.log.read_text())
            parts.append(split(seconds, Path(folder) / job.name / "metrics.jsonl"))

        Local(slots=slots).run(jobs, lambda job: began.update({job.name: time.perf_counter()}), finish)
    return parts


def split(whole: float, metrics: Path) -> dict[str, float]:
    """The parts of a run that took ``whole`` seconds."""
    first, last = (json.loads(line) for line in metrics.read_text().splitlines())
    validation, again = first["timing_s/validation"], last.get("timing_s/validation", 0.0)
    step = last["timing_s/step"] - again
    known = {
        "imports": whole - last["timing_s/total"],
        "models, DeepSpeed": first["timing_s/total"] - validation,
        "validation": validation,
        "step": step,
        "last validation": again,
    }
    return {"whole": whole, "fixed": whole - step - again, **known, "rest": whole - sum(known.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--runs", type=int, default=4)
    count = parser.parse_args().runs
    runs(1, 1, ())  # builds the start model, compiles the bytecode, fills the file cache
    print(f"{len(os.sched_getaffinity(0))} cores, median of {count} runs, seconds")
    print(f"{'slots':<6}{'started as':<22}" + "".join(f"{name:>19}" for name in COLUMNS))
    for slots in (1, 2):
        for name, preload in (("process", ()), ("fork", PRELOAD)):
            waited = slots if preload else 0
            measured = runs(count + waited, slots, preload)
            rows = [(name, measured[waited:])]
            if waited:
                rows.insert(0, ("fork, first", measured[:waited]))
            for label, parts in rows:
                medians = (statistics.median(part[column] for part in parts) for column in COLUMNS)
                print(f"{slots:<6}{label:<22}" + "".join(f"{value:>19.2f}" for value in medians), flush=True)


if __name__ == "__main__":
    main()
