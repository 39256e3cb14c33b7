"""Two configurations are the same experiment if their hashes are equal; plugin paths and trackers do not count."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

from .experiment import Experiment
from .plain_data import plain
from .problems import show

UNCOUNTED = ("plugins", "trackers", "strict_trackers")
"""Keys that do not change what a run computes."""


MEMORY = (
    "model.gradient_checkpointing",
    "trainer.micro_batch",
    "trainer.score_batch",
    "trainer.token_budget",
    "trainer.offload",
    "trainer.zero_stage",
    "rollout.step_timeout",
    "rollout.max_lost",
)
"""Keys that change how much memory or time a run may take, and what it computes by rounding at most."""


STEPS = "trainer.steps"
"""The key that a run may go on with another value of, where that is asked for."""


def beyond_memory(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys in which two resolved experiments differ, without :data:`MEMORY` and parameters of the same engine."""
    allowed = set(MEMORY)
    if _engine(old) == _engine(new):
        allowed.add("rollout.engine")
    return [key for key, _, _ in differences(old, new) if key not in allowed]


def _engine(experiment: Mapping[str, Any]) -> object:
    engine = experiment.get("rollout", {}).get("engine")
    return engine.get("name") if isinstance(engine, Mapping) else engine


def config_hash(experiment: Experiment | Mapping[str, Any]) -> str:
    """Hash an experiment, composed or as :func:`~.config.to_dict` gives it, to 16 hexadecimal digits of its SHA-256."""
    counted = {key: value for key, value in plain(experiment).items() if key not in UNCOUNTED}
    return sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """List (dotted key, value in ``old``, value in ``new``) wherever two resolved experiments differ in what counts."""
    flat_old, flat_new = (dict(_flat({k: v for k, v in data.items() if k not in UNCOUNTED})) for data in (old, new))
    keys = [*flat_old, *(key for key in flat_new if key not in flat_old)]
    pairs = ((key, flat_old.get(key, "nothing"), flat_new.get(key, "nothing")) for key in keys)
    return [(key, before, after) for key, before, after in pairs if before != after]


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, Mapping) and value and "name" not in value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", show(value)
