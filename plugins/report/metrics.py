"""Reports show these metrics, by the names under which runs log them."""

from __future__ import annotations

import re

import attrs

TAIL = 5
"""Number of last steps whose mean is what a run ends with: the rollouts of a single step are few."""

SUCCESS = "validation/success"
ENTROPY = "actor/entropy"
INFORMATION = "collapse_first_turn_sample/mi_seq_estimate"
"""What the first thoughts of the episodes tell of their prompts, as the detector ``mutual_information`` measures it."""

OUTCOME = re.compile(r"(?:^|[/_])(?:success|rewards?|returns?|advantages?|scores?|pass@\d+)(?:[/_]|$)")
"""Pattern of the names of metrics that are made of success or rewards: no wonder if they go with success."""

ENDS = {
    "reward": "train/reward",
    "group reward std": "rollout/in_group_reward_std",
    "entropy": ENTROPY,
    "kept": "rollout/filter_kept_ratio",
    "KL": "actor/kl",
}
"""Training metric whose mean over the last steps each column shows."""

STAGES = {
    "rollout": ("rollout",),
    "score": ("score", "reference", "values"),
    "update": ("update_critic", "update_actor"),
    "validation": ("validation",),
}
"""Stages of a step as people ask for them -> the timings that they add up; what is left is ``other``."""


@attrs.frozen
class Curve:
    """A curve is a metric over the steps."""

    name: str
    """Name of the file."""
    metric: str
    title: str
    unit: str = ""
    smooth: bool = True
    """Whether the mean over the last steps is shown, with the single steps behind it."""


CURVES = (
    Curve("success", SUCCESS, "Validation success", "share of episodes", smooth=False),
    Curve("train_success", "train/success", "Training success", "share of episodes"),
    Curve("reward", "train/reward", "Reward", "mean episode reward"),
    Curve("group_reward_std", "rollout/in_group_reward_std", "Reward std within groups", "reward"),
    Curve("entropy", ENTROPY, "Policy entropy", "nats per token"),
    Curve("information", INFORMATION, "Mutual information of prompts and first thoughts", "nats", smooth=False),
    Curve("kept_ratio", "rollout/filter_kept_ratio", "Groups kept by the filter", "share of groups"),
    Curve("kl", "actor/kl", "KL to the reference", "nats per token"),
)

DETECTORS = "detectors"
"""The timing of what the detectors measure."""

TIMED = ("step", DETECTORS, *(name for names in STAGES.values() for name in names))

SHOWN = tuple(
    dict.fromkeys(
        [
            *(curve.metric for curve in CURVES),
            f"{SUCCESS}_se",
            *ENDS.values(),
            *(f"timing_s/{name}" for name in TIMED),
        ]
    )
)
"""Metrics that are kept of a run; the others are not read."""
