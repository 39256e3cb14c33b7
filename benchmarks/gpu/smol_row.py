"""One measurement of ``smol.py``, in a process of its own: ``smol_row.py start|train EXPERIMENT.yaml RESULT.json RUN``.

``start`` warms the model up and plays the validation tasks, ``train`` trains in the directory RUN. Either is written
to RESULT.json.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import common

MI = "collapse_first_turn_sample/mi_estimate"


def measured_start(experiment: Any) -> dict[str, Any]:
    """How a warmed model plays unseen tasks, and how long the warm-up took."""
    from uncollapse.plugins.training.assemble import assemble
    from uncollapse.plugins.training.networks.prepare import prepare_model
    from uncollapse.plugins.training.processes.ranks import start_ranks
    from uncollapse.plugins.training.step.metrics import validation_metrics
    from uncollapse.plugins.training.warm_start.warm import RECORD

    prepare_model(experiment, warmed=False)
    started, clock = time.perf_counter(), time.time()
    file = Path(prepare_model(experiment)) / RECORD
    warmed = time.perf_counter()
    record = json.loads(file.read_text())
    cached = file.stat().st_mtime < clock
    parts = assemble(experiment, start_ranks(), training=False)
    episodes = parts.sampler.validate(parts.validation_environment)
    parts.close()
    played = time.perf_counter()
    metrics = validation_metrics(episodes)
    return {
        "valid": 1 - metrics["validation/share_of_turns_invalid"], "valid_se": valid_se(episodes),
        "success": metrics["validation/success"], "success_se": metrics["validation/success_se"],
        "tasks": metrics["validation/tasks"], "turns": metrics["validation/turns"],
        "response_length": metrics["validation/response_length"], "loss": record["losses"][-1],
        "valid_seen": record.get("valid"), "success_seen": record.get("success"),
        "warm_s": None if cached else warmed - started,
        "played_s": played - warmed,
    }  # fmt: skip


def valid_se(episodes: list[Any]) -> float:
    """Standard error of the share of valid turns, over distinct tasks."""
    counts: dict[tuple[str, str], list[int]] = {}
    for episode in episodes:
        count = counts.setdefault((episode.system, episode.turns[0].user), [0, 0])
        count[0] += sum(turn.answer.valid for turn in episode.turns)
        count[1] += len(episode.turns)
    valid, turns = (sum(count[place] for count in counts.values()) for place in (0, 1))
    squares = sum((good - some * valid / turns) ** 2 for good, some in counts.values())
    return float((len(counts) / max(1, len(counts) - 1) * squares) ** 0.5 / turns)


def measured_training(experiment: Any, run: Path) -> dict[str, Any]:
    """Seconds, memory and the course of a short run."""
    import uncollapse
    from uncollapse.plugins.training.networks.prepare import prepare_model

    prepare_model(experiment)
    with common.Peak() as peak:
        started = time.perf_counter()
        outcome = uncollapse.train(experiment, run)
        seconds = time.perf_counter() - started
    if outcome.status != "success":
        raise SystemExit(f"the run ended as {outcome.status}")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    memory = {"trainer_gib": peak.own_gib or None, "gpu_gib": peak.gib or None, "host_gib": host}
    return {**course(lines), "start_s": seconds - lines[-1]["timing_s/total"], "train_s": seconds, **memory}


def course(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What the metrics of a run say: before and after, medians of seconds, and what 200 steps would take."""
    steps = [line for line in lines if line["step"] > 0]
    success = [line for line in lines if "validation/success" in line]
    known = [line[MI] for line in steps if MI in line]
    phases = {"step_s": "step", "rollout_s": "rollout", "update_s": "update_actor", "sync_s": "sync"}
    seconds = {
        name: median(line.get(f"timing_s/{phase}", 0.0) for line in steps[1:] or steps)
        for name, phase in phases.items()
    }
    forecast = ("timing_s/forecast_planned", "timing_s/forecast_predicted")
    return {
        "success_before": success[0]["validation/success"], "success_after": success[-1]["validation/success"],
        "success_after_se": success[-1]["validation/success_se"],
        "valid_after": 1 - success[-1]["validation/share_of_turns_invalid"],
        "reward_std": steps[-1]["rollout/in_group_reward_std"], "entropy_first": steps[0]["actor/entropy"],
        "entropy_last": steps[-1]["actor/entropy"], "mi_first": known[0] if known else None,
        "mi_last": known[-1] if known else None, "mismatch": median(line["mismatch/abs"] for line in steps), **seconds,
        "detectors_s": sum(line.get("timing_s/detectors", 0.0) for line in steps),
        "forecast_s": max(sum(line.get(name, 0.0) for name in forecast) for line in steps),
        "for_200_s": 200 / len(steps) * (lines[-1]["timing_s/total"] - lines[0]["timing_s/total"]),
    }  # fmt: skip


def main() -> None:
    import uncollapse

    kind, source, result, run = sys.argv[1:]
    experiment = uncollapse.compose(Path(source))
    found = measured_start(experiment) if kind == "start" else measured_training(experiment, Path(run))
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
