"""What the sweeps run, in the keys of RAGEN-2's scripts, against what their documents say."""

from __future__ import annotations

import pytest
from uncollapse.core.yaml import loads
from uncollapse.plugins.ragen.keys import Ragen
from uncollapse.plugins.sweeps.sweep import load

KL_SCRIPT = """
trainer.project_name: ragen_release_kl_sweep
--config-name: _2_sokoban
model_path: Qwen/Qwen2.5-3B
trainer.total_training_steps: 400
trainer.save_freq: -1
algorithm.adv_estimator: gae
actor_rollout_ref.actor.entropy_coeff: 0.0
actor_rollout_ref.rollout.rollout_filter_strategy: top_p
actor_rollout_ref.rollout.rollout_filter_value: 1
actor_rollout_ref.rollout.rollout_filter_type: largest
actor_rollout_ref.rollout.rollout_filter_metric: reward_variance
actor_rollout_ref.rollout.rollout_filter_include_zero: True
actor_rollout_ref.actor.filter_loss_scaling: none
actor_rollout_ref.actor.ppo_mini_batch_size: 32
actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu: 4
critic.ppo_mini_batch_size: 32
critic.ppo_micro_batch_size_per_gpu: 4
ppo_mini_batch_size: 32
actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu: 8
actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu: 8
es_manager.train.env_groups: 8
es_manager.train.group_size: 16
es_manager.train.env_configs.n_groups: [8]
es_manager.val.env_groups: 512
es_manager.val.group_size: 1
es_manager.val.env_configs.n_groups: [512]
actor_rollout_ref.rollout.gpu_memory_utilization: 0.5
"""
"""The "script truth" of the KL sweep, without what a value changes."""

SHARED = """
--config-name: _2_sokoban
model_path: Qwen/Qwen2.5-3B
algorithm.adv_estimator: gae
trainer.total_training_steps: 400
trainer.save_freq: -1
trainer.logger: ['console', 'wandb']
trainer.val_before_train: True
actor_rollout_ref.actor.filter_loss_scaling: none
actor_rollout_ref.actor.ppo_mini_batch_size: 32
actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu: 4
critic.ppo_mini_batch_size: 32
critic.ppo_micro_batch_size_per_gpu: 4
actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu: 8
actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu: 8
es_manager.train.env_groups: 8
es_manager.train.group_size: 16
es_manager.val.env_groups: 512
es_manager.val.group_size: 1
actor_rollout_ref.rollout.rollout_filter_strategy: top_p
actor_rollout_ref.rollout.rollout_filter_top_p_prob_mode: softmax
actor_rollout_ref.rollout.rollout_filter_type: largest
actor_rollout_ref.rollout.rollout_filter_metric: reward_variance
actor_rollout_ref.actor.entropy_from_logits_with_chunking: True
"""
"""What all three sweeps share."""

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
COEFS = [0, 0.001, 0.003, 0.01, 0.03, 0.1]


def shown(name, **options):
    """Label -> key -> value, of each point in order."""
    sweep = load(name, **options)
    keys = {point.label: Ragen().keys(point, sweep) for point in sweep.prepared("root")}
    return {label: {key: loads(text) for key, text in found.items()} for label, found in keys.items()}


def test_the_kl_sweep_is_that_of_the_script():
    wanted = loads(KL_SCRIPT)
    assert len(wanted) == 27
    points = shown("kl")
    for found in points.values():
        assert {key: found.get(key) for key in wanted} == wanted
    assert [found[f"{ACTOR}.kl_loss_coef"] for found in points.values()] == COEFS
    assert [found[f"{ACTOR}.use_kl_loss"] for found in points.values()] == [coef > 0 for coef in COEFS]
    assert {found[f"{ACTOR}.kl_loss_type"] for found in points.values()} == {"kl"}
    assert {found["algorithm.use_kl_in_reward"] for found in points.values()} == {False}


@pytest.mark.parametrize("name", ["top-p", "kl", "entropy"])
def test_the_shared_setup_is_shared(name):
    wanted = loads(SHARED)
    points = shown(name)
    assert len(points) == {"top-p": 8}.get(name, 6)
    for label, found in points.items():
        assert {key: found.get(key) for key in wanted} == wanted
        assert found["trainer.project_name"] == f"ragen_release_{name.replace('-', '_')}_sweep"
        assert found["trainer.experiment_name"].endswith(f"_{label}-Qwen2.5-3B")
        assert found["trainer.default_local_dir"].startswith("root/model_saving/")


def test_only_one_intervention_varies():
    varied = {
        "top-p": {f"{ROLLOUT}.rollout_filter_value", f"{ROLLOUT}.rollout_filter_include_zero"},
        "kl": {f"{ACTOR}.kl_loss_coef", f"{ACTOR}.use_kl_loss"},
        "entropy": {f"{ACTOR}.entropy_coeff"},
    }
    own = {"trainer.experiment_name", "trainer.default_local_dir"}
    for name, keys in varied.items():
        first, *others = shown(name).values()
        differ = {key for other in others for key in first if first[key] != other[key]}
        assert differ == keys | own


def test_the_entropy_sweep_varies_entropy_without_kl():
    points = shown("entropy")
    assert [found[f"{ACTOR}.entropy_coeff"] for found in points.values()] == COEFS
    for found in points.values():
        assert (found[f"{ACTOR}.use_kl_loss"], found[f"{ACTOR}.kl_loss_coef"]) == (False, 0)
        assert (found[f"{ROLLOUT}.rollout_filter_value"], found[f"{ROLLOUT}.rollout_filter_include_zero"]) == (1, True)


def test_the_top_p_sweep_varies_the_filter_with_kl_and_entropy_on():
    points = shown("top-p")
    values = [found[f"{ROLLOUT}.rollout_filter_value"] for found in points.values()]
    assert values == [1.0, 0.98, 0.95, 0.9, 0.8, 0.6, 0.4, 1.0]
    zeros = [found[f"{ROLLOUT}.rollout_filter_include_zero"] for found in points.values()]
    assert zeros == [False] * 7 + [True]
    for found in points.values():
        assert (found[f"{ACTOR}.use_kl_loss"], found[f"{ACTOR}.kl_loss_coef"]) == (True, 0.001)
        assert found[f"{ACTOR}.entropy_coeff"] == 0.001


def test_options_reach_their_keys():
    (found,) = shown(
        "kl", kl_values="0.5", steps=7, save_freq=50, gpu_memory_utilization=0.3, rollout_filter_include_zero=False
    ).values()
    assert (found["trainer.total_training_steps"], found["trainer.save_freq"]) == (7, 50)
    assert found[f"{ROLLOUT}.gpu_memory_utilization"] == 0.3
    assert found[f"{ROLLOUT}.rollout_filter_include_zero"] is False


@pytest.mark.parametrize(
    ("strategy", "there", "values"),
    [
        ("top_p", "top_p", [1.0, 0.8, 0.6, 0.4]),
        ("top_k", "top_k_abs", [8, 6, 4, 3]),
        ("min_p", "min_p", [1.0, 0.8, 0.6, 0.4]),
        ("top_f", "top_k", [1.0, 0.8, 0.6, 0.4]),
    ],
)
def test_filters_by_their_names_there(strategy, there, values):
    found = shown("smoke", groups="3", rollout_filter_strategy=strategy, collapse="nocd").values()
    assert {keys[f"{ROLLOUT}.rollout_filter_strategy"] for keys in found} == {there}
    assert [keys[f"{ROLLOUT}.rollout_filter_value"] for keys in found] == values


def test_zero_task_advantage_and_no_filter():
    found = shown("smoke", groups="4", collapse="nocd")
    assert {keys["algorithm.zero_task_advantage"] for keys in found.values()} == {True}
    (keys,) = shown("custom").values()
    assert keys[f"{ROLLOUT}.rollout_filter_strategy"] == "top_p"
    assert (keys[f"{ROLLOUT}.rollout_filter_value"], keys[f"{ROLLOUT}.rollout_filter_include_zero"]) == (1, True)
    assert keys["model_path"] is None  # it is built on the spot
