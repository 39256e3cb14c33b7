"""A point of a sweep in the dotted keys of RAGEN-2's scripts, to compare with them key by key."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

import attrs

from ...core.components import Dialect
from ...core.compose.combinations import needs
from ...core.compose.experiment import Experiment
from ..sweeps.skip_or_resume import Prepared
from ..sweeps.sweep import Sweep

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
CONFIGS = {"bandit": "_1_bandit", "sokoban": "_2_sokoban", "frozen_lake": "_3_frozen_lake"}
STRATEGIES = {"top_k": "top_k_abs", "top_f": "top_k"}
"""Our filter -> its name there today, where a fraction of the groups is called top_k."""


@attrs.frozen
class Ragen(Dialect):
    """RAGEN-2's ``train.py``: dotted keys of Hydra, as its scripts write them.

    ``use_kl_loss`` says whether our run has a KL loss and with it a reference pass; ``model_path`` is empty for a model
    that is built on the spot. Keys without a counterpart here (prompt formats, Ray's workers) are absent.
    """

    def keys(self, point: Prepared, sweep: Sweep) -> dict[str, str]:
        """Dotted key -> value of one point."""
        return _keys(point, sweep.project, sweep.engine)

    def words(self, keys: Mapping[str, str]) -> str:
        """The keys as words of a shell behind ``python train.py``, a line each."""
        return _hydra_words(keys)


def _keys(point: Prepared, project: str | None, engine: Mapping[str, Any]) -> dict[str, str]:
    experiment = point.experiment
    trainer, rollout, validation = experiment.trainer, experiment.rollout, experiment.validation
    keys: dict[str, Any] = {
        "--config-name": CONFIGS.get(experiment.environment.name, experiment.environment.name),
        "model_path": experiment.model.path or "",
        "trainer.project_name": project or "uncollapse",
        "trainer.experiment_name": point.place.name,
        "trainer.total_training_steps": trainer.steps,
        "trainer.save_freq": trainer.save_every,
        "trainer.test_freq": validation.every,
        "trainer.val_before_train": validation.before_train,
        "trainer.logger": _loggers(experiment),
        "algorithm.adv_estimator": experiment.advantage.name,
        "algorithm.zero_task_advantage": experiment.zero_task_advantage,
        f"{ACTOR}.entropy_coeff": experiment.entropy.coef,
        f"{ACTOR}.entropy_from_logits_with_chunking": True,
        **_kl(experiment),
        **_filter(experiment),
        f"{ACTOR}.loss_agg_mode": str(trainer.loss_aggregation),
        f"{ACTOR}.ppo_mini_batch_size": trainer.mini_batch,
        f"{ACTOR}.ppo_micro_batch_size_per_gpu": trainer.micro_batch,
        "critic.ppo_mini_batch_size": trainer.mini_batch,
        "critic.ppo_micro_batch_size_per_gpu": trainer.micro_batch,
        "ppo_mini_batch_size": trainer.mini_batch,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": trainer.score_batch,
        f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": trainer.score_batch,
        "es_manager.train.env_groups": rollout.groups,
        "es_manager.train.group_size": rollout.group_size,
        "es_manager.train.env_configs.n_groups": [rollout.groups],
        "es_manager.val.env_groups": validation.groups,
        "es_manager.val.group_size": validation.group_size,
        "es_manager.val.env_configs.n_groups": [validation.groups],
    }
    keys |= {f"{ROLLOUT}.{name}": value for name, value in engine.items()}
    if point.place.checkpoints:
        keys["trainer.default_local_dir"] = str(point.place.checkpoints)
    return {key: _text(value) for key, value in keys.items()}


def _kl(experiment: Experiment) -> dict[str, Any]:
    kl = experiment.kl
    in_loss = "reference" in needs(experiment) and kl.placement == "loss"
    return {
        f"{ACTOR}.use_kl_loss": in_loss,
        f"{ACTOR}.kl_loss_coef": kl.coef if kl.placement == "loss" else 0.0,
        f"{ACTOR}.kl_loss_type": kl.estimator.name,
        "algorithm.use_kl_in_reward": kl.coef > 0 and kl.placement == "reward",
    }


def _filter(experiment: Experiment) -> dict[str, Any]:
    """``nofilter`` there is top-p of all the mass, groups without variance included."""
    select = experiment.filter.select
    params = {"value": 1.0, "type": "largest", "include_zero": True, "prob_mode": "linear"}
    strategy = "top_p"
    if select.name != "nofilter":
        strategy, params = STRATEGIES.get(select.name, select.name), select.params
    names = {"value": "value", "type": "type", "include_zero": "include_zero", "prob_mode": "top_p_prob_mode"}
    return {
        f"{ROLLOUT}.rollout_filter_strategy": strategy,
        **{f"{ROLLOUT}.rollout_filter_{name}": params[key] for key, name in names.items() if key in params},
        f"{ROLLOUT}.rollout_filter_metric": experiment.filter.metric.name,
        f"{ACTOR}.filter_loss_scaling": experiment.filter.loss_scaling,
    }


def _loggers(experiment: Experiment) -> list[str]:
    names = {"progress": "console", "wandb": "wandb"}
    return sorted(names[tracker.name] for tracker in experiment.trackers if tracker.name in names)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(repr(item) for item in value)}]"
    return str(value)


def _hydra_words(keys: Mapping[str, str]) -> str:
    """A model that is built here has no path."""
    words = [f"--config-name {shlex.quote(keys['--config-name'])}"]
    for key, value in keys.items():
        if key != "--config-name" and not (key == "model_path" and not value):
            words.append(_quoted(f"{key}={_hydra(value)}"))
    return " \\\n".join(f"  {word}" for word in words)


def _quoted(word: str) -> str:
    """For a shell; in double quotes where that is easier to read."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _hydra(value: str) -> str:
    """A value that Hydra reads as this text, number or list."""
    if re.fullmatch(r"[\w./+-]*|\[.*\]", value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
