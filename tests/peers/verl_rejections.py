"""Rows that verl rejects, for :mod:`tests.estimators.correction`.

    python tests/peers/verl_rejections.py        (in an environment that has verl; README.md says how it is made)

verl averages in the precision that it is given, here float64.
"""

from __future__ import annotations

from inputs import rows, write
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_rejection_mask

INPUTS = {"rows": rows(0, rows=24), "far": rows(1, rows=24, spread=1.5)}
BOUNDS = {"k2": {"mean": 0.005, "sum": 0.02, "max": 0.01}, "k3": {"mean": 0.004, "sum": 0.03, "max": 0.015}}


def cases():
    for name, inputs in INPUTS.items():
        mask = inputs["mask"]
        log_ratios = inputs["old_logprobs"] - inputs["sampler_logprobs"]
        for of, bounds in BOUNDS.items():
            for level, high in bounds.items():
                kept, _ = compute_rollout_rejection_mask(log_ratios, mask.double(), f"seq_{level}_{of}", str(high))
                ours = f"sequence_divergence({of}, {level}, {high})"
                yield {"ours": ours, "theirs": f"seq_{level}_{of}", "inputs": name, "kept": kept.bool()}


if __name__ == "__main__":
    write("verl_rejections", "verl", INPUTS, list(cases()))
