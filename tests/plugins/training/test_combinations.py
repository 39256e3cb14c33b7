"""One step of every estimator, window, filter metric and placement, on a model that plays Sokoban a little."""

import math

import pytest
import uncollapse
from uncollapse.core.registry import registry
from uncollapse.plugins.training import assemble
from uncollapse.plugins.training.processes import ranks
from uncollapse.plugins.training.step import stages
from uncollapse.plugins.training.step.loop import Loop


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNCOLLAPSE_CACHE", str(cache))
        yield [
            "model.build={name: cloned_qwen2, steps: 60}",
            "rollout.groups=4",
            "rollout.group_size=4",
            "trainer.mini_batch=8",
            "validation.groups=4",
        ]


def step(base, *overrides):
    experiment = uncollapse.compose("tiny-sokoban", [*base, *overrides])
    own = ranks.start_ranks()
    loop = Loop(experiment, assemble.assemble(experiment, own), own)
    before = {name: tensor.clone() for name, tensor in loop.parts.policy.weights()}
    metrics = loop.train_step() | loop.validate()
    moved = max(float((tensor - before[name]).abs().max()) for name, tensor in loop.parts.policy.weights())
    assert all(math.isfinite(value) for value in metrics.values())
    return metrics, moved, loop


REQUIRED = {"entropic": "entropic(0.2)"}
"""Estimators with a parameter that has no default."""


@pytest.mark.parametrize("name", sorted({*registry().names("advantage")} - {"gdpo"}))  # it needs several rewards
def test_every_estimator_moves_the_policy(base, name):
    metrics, moved, _ = step(base, f"advantage={REQUIRED.get(name, name)}")
    assert metrics["actor/grad_norm"] > 0
    assert 0 < moved <= 2 * 5e-4 * 1.1  # two AdamW steps of at most lr each, and weight decay
    assert ("critic/vf_loss" in metrics) == (name in ("gae", "bi_level_gae"))


@pytest.mark.slow
@pytest.mark.parametrize("name", registry().names("policy_loss"))
def test_every_loss_moves_the_policy(base, name):
    """Twice over the rows, so that ratios, covariances and quantiles are those of a policy that has moved."""
    metrics, moved, _ = step(base, f"policy_loss={name}", "trainer.epochs=2", "advantage=grpo")
    assert metrics["actor/grad_norm"] > 0
    assert 0 < moved <= 4 * 5e-4 * 1.1  # four AdamW steps of at most lr each, and weight decay


@pytest.mark.parametrize("window", ["limited_multi_turn", "single_turn"])
@pytest.mark.parametrize("advantage", ["gae", "grpo"])
def test_turn_level_windows_train_one_row_per_turn(base, window, advantage):
    metrics, moved, loop = step(
        base,
        f"rollout.context_window={window}",
        "rollout.window_turns=2",
        f"advantage={advantage}",
        "trainer.mini_batch=16",
    )
    assert metrics["train/rows"] == sum(len(episode.turns) for episode in loop.episodes) > 16
    assert moved > 0


@pytest.mark.parametrize("metric", registry().names("group_metric"))
def test_every_group_metric_ranks_the_groups(base, metric):
    metrics, _, _ = step(base, f"filter.metric={metric}", "filter.select=top_k(3)", "filter.loss_scaling=sqrt")
    assert metrics["rollout/filter_kept_count"] == 3
    assert metrics["train/rows"] == 12


@pytest.mark.parametrize(
    "overrides",
    [
        ["kl.coef=0.1", "kl.placement=reward", "kl.controller=adaptive"],
        ["kl.coef=0.1", "kl.weight=differentiable", "kl.estimator=mse+"],
        ["reward.placement=turn", "advantage=bi_level_gae"],
        ["reward.normalization=mean_std", "advantage=reinforce_plus_plus"],
        ["advantage=grpo", "soft_advantage_reweight=true", "trainer.loss_aggregation=seq-mean-token-sum-norm"],
        ["rollout.think=false", "entropy_coeff=0.01", "trainer.loss_aggregation=seq-mean-token-mean"],
        ["model.lora={rank: 4}", "kl.coef=0.1"],
        ["model.dtype=bfloat16", "trainer.zero_stage=1", "model.gradient_checkpointing=true"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_settings_that_change_the_objective(base, overrides):
    _, moved, _ = step(base, *overrides)
    assert moved > 0


def test_with_zero_3_the_engine_samples_from_an_up_to_date_copy(base):
    metrics, _, loop = step(base, "trainer.zero_stage=3", "trainer.lr=0.01")
    assert loop.parts.synced
    second = loop.train_step()
    assert second["rollout/logprob_gap"] < 1e-4  # with the first step's weights it would be large
    assert metrics["rollout/logprob_gap"] < 1e-4


def test_validation_rooms_are_no_training_rooms(base):
    experiment = uncollapse.compose("tiny-sokoban", base)
    train = experiment.environment.component
    validation = assemble.validation_environment(experiment)
    seeds = experiment.rollout.seed, experiment.validation.seed
    rooms = [{env.make(seed + k).key for k in range(400)} for env, seed in zip((train, validation), seeds, strict=True)]
    assert len(rooms[0]) > 100 < len(rooms[1])
    assert not rooms[0] & rooms[1]


def test_the_same_seed_gives_the_same_episodes_and_another_seed_others(base):
    def episodes(*overrides):
        experiment = uncollapse.compose("tiny-sokoban", [*base, *overrides])
        own = ranks.start_ranks()
        return assemble.assemble(experiment, own, training=False).sampler.train(0)

    assert episodes() == episodes()
    assert episodes() != episodes("seed=1")
    assert stages.derived_seed(0, "train", 1) != stages.derived_seed(0, "train", 2)
