"""Runs collapse on purpose: which detector gives the first verdict, how early, and is it silent on healthy runs.

Trains tiny-sokoban in four ways that collapse and two that do not, three seeds each, with no detector that stops; then
replays every metric-based detector over the metrics. Needs some 15 minutes on two cores; runs that are there already
are not trained again.

Run: python benchmarks/collapse.py [--root runs/collapse] [--steps 30] [--seeds 0,1,2]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

from uncollapse import Sweep
from uncollapse.core.compose.config import compose
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.collapse.replay import find_runs, make_detector, replay
from uncollapse.plugins.sweeps.points import Case

PLANTED = {
    "lr-sudden": {"trainer.lr": 2e-2},
    "lr-gradual": {"trainer.lr": 3e-3},
    "entropy-negative": {"entropy_coeff": -3.0},
    "no-task": {"zero_task_advantage": True, "entropy_coeff": 0.1},
}
HEALTHY = {"grpo": {}, "grpo-top_p": {"filter.select": "top_p(0.9)"}}
DETECTORS = (
    "reward_variance_collapse",
    "low_validation_success",
    "empty_filter",
    "entropy_collapse",
    "entropy_explosion",
    "format_collapse",
    "kl_runaway",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("runs/collapse"))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    settings = {
        "collapse": [],
        "advantage": "grpo",
        "trainer.steps": arguments.steps,
        "validation.every": 5,
        "validation.groups": 128,
        "trainer.save_last": False,
    }
    cases = [Case(name, overrides) for name, overrides in {**PLANTED, **HEALTHY}.items()]
    sweep = Sweep("tiny-sokoban", {"seed": arguments.seeds}, "collapse", settings, cases=cases)
    sweep.run(arguments.root)
    report(find_runs([arguments.root]), arguments.steps)


def report(runs: list[RunDirectory], steps: int) -> None:
    verdicts_of = {}
    for run in runs:
        verdicts_of[run.path.name] = {name: replay(run, make_detector(name))[0] for name in DETECTORS}
    print(f"\n{'run':26}{'validation success':>20}  first verdict, and at which step the others spoke")
    for run in runs:
        verdicts = [verdict for verdict in verdicts_of[run.path.name].values() if verdict]
        spoken = sorted(((v.step, v.detector) for v in verdicts), key=lambda item: item[0])
        success = [r["validation/success"] for r in run.metrics() if r.get("validation/success") is not None]
        detectors = ", ".join(f"{detector} {step}" for step, detector in spoken) or "silent"
        print(f"{run.path.name:26}{success[0]:>11.3f} -> {success[-1]:.3f}  {detectors}")
    planted = [run.path.name for run in runs if run.path.name.partition("__")[0] in PLANTED]
    healthy = [run.path.name for run in runs if run.path.name.partition("__")[0] in HEALTHY]
    print(f"\n{'detector':26}{'caught':>8}{'median step':>13}{'false alarms':>14}")
    for name in DETECTORS:
        steps_of_verdicts = [verdict.step for run in planted if (verdict := verdicts_of[run][name])]
        alarms = sum(verdicts_of[run][name] is not None for run in healthy)
        early = f"{median(steps_of_verdicts):g}" if steps_of_verdicts else "-"
        caught_of_all = f"{len(steps_of_verdicts)}/{len(planted)}"
        print(f"{name:26}{caught_of_all:>8}{early:>13}{f'{alarms}/{len(healthy)}':>14}")
    print(f"\njudging, all {len(DETECTORS)}: {share_of_a_step(runs):.2e} of a step")
    caught = [any(verdicts_of[run].values()) for run in planted]
    alarms = [any(verdicts_of[run].values()) for run in healthy]
    print(f"\nplanted collapses caught before step {steps}: {sum(caught)} of {len(caught)}")
    print(f"healthy runs stopped: {sum(alarms)} of {len(alarms)}")
    if not all(caught) or any(alarms):
        raise SystemExit(1)


def share_of_a_step(runs: list[RunDirectory]) -> float:
    """Seconds that all detectors together judge, by the seconds of the training steps that they judge."""
    records = [record for run in runs for record in run.metrics() if record["step"] > 0]
    context = SimpleNamespace(experiment=compose(runs[0].read_config()), tokenizer=None)
    sessions = [make_detector(name).component.start(context) for name in DETECTORS]
    started = time.perf_counter()
    for record in records:
        for session in sessions:
            session.judge(record["step"], record)
    return (time.perf_counter() - started) / sum(record["timing_s/step"] for record in records)


if __name__ == "__main__":
    main()
