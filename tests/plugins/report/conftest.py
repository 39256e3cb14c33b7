from __future__ import annotations

from pathlib import Path

import pytest
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps

AXES = {"filter.select": ["nofilter", "top_p(0.9)"], "kl.coef": [0, 0.01]}
FINAL = {"nofilter-0": 0.40, "nofilter-0.01": 0.50, "top_p-0": 0.70, "top_p-0.01": 0.60}
STEPS = 12
DETECTOR = "reward_variance_collapse"


@pytest.fixture
def sweep_directory(tmp_path) -> Path:
    """Four runs of 12 steps with validations at 0, 6 and 12; the last one was stopped at step 6."""
    points = []
    for label, (select, coef) in zip(
        FINAL, [(s, c) for s in AXES["filter.select"] for c in AXES["kl.coef"]], strict=True
    ):
        place = {"filter.select": select, "kl.coef": str(coef)}
        points.append({"label": label, "hash": "", "values": place, "settings": place})
        config = {"filter": {"select": select, "metric": "reward_variance"}, "kl": {"coef": coef}, "seed": 0}
        write_run(RunDirectory.create(tmp_path / label, config, {}), coef, stopped=label == "top_p-0.01")
    record = {"name": "test", "experiment": {"environment": "sokoban"}, "axes": AXES, "points": points}
    (tmp_path / "sweep.yaml").write_text(dumps(record))
    return tmp_path


def write_run(run: RunDirectory, coef: float, stopped: bool) -> None:
    success = {0: 0.30, 6: 0.35, 12: FINAL[run.path.name]}
    run.append_metrics(0, {"validation/success": 0.30, "validation/success_se": 0.02, "timing_s/total": 5.0})
    for step in range(1, 7 if stopped else STEPS + 1):
        metrics = {
            "train/success": 0.1 * step,
            "train/reward": float(step),
            "rollout/in_group_reward_std": 2.0 / step,
            "rollout/filter_kept_ratio": 0.75,
            "actor/entropy": None if step == 3 else 1.0 / step,
            "timing_s/rollout": 1.0,
            "timing_s/score": 0.25,
            "timing_s/reference": 0.25,
            "timing_s/update_actor": 0.5,
            "timing_s/update_critic": 0.5,
            "timing_s/validation": 0.6 if step % 6 == 0 else 0.0,
            "timing_s/step": 3.6 if step % 6 == 0 else 3.0,
            # resumed after step 6: the clock of the second process starts anew
            "timing_s/total": 5.0 + 3 * step,
        }
        if coef:
            metrics["actor/kl"] = 0.01 * step
        if step % 6 == 0:
            metrics["collapse_first_turn_sample/mi_seq_estimate"] = 2.0 / step
            metrics |= {"validation/success": success[step], "validation/success_se": 0.03}
        run.append_metrics(step, metrics)
    turns = [{"user": "Where is <the> box?", "response": "<answer>Up</answer>"}]
    episode = {
        "group": 10000,
        "member": 1,
        "reward": 9.75,
        "success": True,
        "stop": "success",
        "system": "Push.",
        "turns": turns,
    }
    run.write_rollouts(3, [{**episode, "reward": -1.0}])
    run.write_rollouts(6, [episode] * 5)
    if stopped:
        verdict = {"detector": DETECTOR, "step": 6, "reason": "the spread of rewards is gone", "evidence": {}}
        run.set_status(f"stopped:{DETECTOR}", step=6, verdict=verdict)
    else:
        run.set_status("success", step=STEPS)
