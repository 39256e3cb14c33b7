from pathlib import Path

import pytest
from uncollapse.core import plugins
from uncollapse.core.compose.combinations import check_ranks, components, needs
from uncollapse.core.compose.config import compose, problems
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.registry import Registry

PLUGIN = plugins.load_file(Path(__file__).parents[1] / "fake_components.py")
REGISTRY = Registry([PLUGIN])
BASE = {"environment": "sokoban", "model": {"path": "org/model"}, "collapse": []}


def make(*overrides):
    return compose(BASE, overrides, REGISTRY)


def wrong(*overrides):
    return {problem.key: str(problem) for problem in problems(BASE, overrides, REGISTRY)}


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        (["critic=null"], "advantage", "gae needs a critic's values, and critic is null"),
        (["advantage=grpo", "rollout.group_size=1", "trainer.mini_batch=8"], "advantage", "rollout.group_size is 1"),
        (
            ["filter.select=top_p(0.9)", "rollout.group_size=1", "trainer.mini_batch=8"],
            "filter.metric",
            "reward_variance compares the episodes of a group, and rollout.group_size is 1",
        ),
        (
            ["collapse=[reward_variance_collapse]", "rollout.group_size=1", "trainer.mini_batch=8"],
            "collapse.reward_variance_collapse",
            "rollout.group_size is 1",
        ),
        (["advantage=remax", "rollout.engine=sampler"], "advantage", "the engine sampler makes none"),
        (
            ["advantage=misspelt"],
            "advantage",
            "declares a need 'valeus', which nothing provides: a mistake in its plugin; did you mean 'values'?",
        ),
        (
            ["trainer.micro_batch=5"],
            "trainer.mini_batch",
            "must be a multiple of 5, trainer.micro_batch; the nearest are 30 and 35",
        ),
        (
            ["trainer.token_budget=3000"],
            "trainer.token_budget",
            "cannot hold a row of rollout.max_context = 3600 tokens",
        ),
        (["trainer.mini_batch=256"], "trainer.mini_batch", "is more than the 128 rows of a step"),
        (["trainer.mini_batch=48"], "trainer.mini_batch", "does not divide the 128 rows of a step"),
        (["kl.placement=reward", "kl.weight=detached"], "kl.weight", "set kl.weight to none, or kl.placement to loss"),
        (
            ["advantage=remax", "reward.normalization=mean_std"],
            "reward.normalization",
            "which remax compares with the raw rewards of greedy ones",
        ),
        (
            ["reward={placement: turn, normalization: mean}"],
            "reward.normalization",
            "normalises whole episodes, and reward.placement is turn",
        ),
        (["rollout.top_p=0.9"], "rollout.top_p", "off by the log of the kept mass"),
        (["rollout.top_k=50"], "rollout.top_k", "leave it at -1 and lower rollout.temperature"),
        (["soft_advantage_reweight=true"], "soft_advantage_reweight", "and gae does not"),
        (
            ["advantage=grpo", "critic.policy_after=3"],
            "critic.policy_after",
            "nothing in the experiment needs its values",
        ),
        (
            ["critic={shared: true, weight_decay: 0.1}"],
            "critic.weight_decay",
            "is of an optimizer of its own, and a shared critic trains in the policy's: trainer has the same key",
        ),
        (["critic={shared: true, path: org/other}"], "critic.path", "the shared one is a head on the policy's trunk"),
        (["reward.shaping=brief", "advantage=remax"], "reward.shaping", "compares with the raw rewards of greedy ones"),
        (["reward.shaping=greedy"], "reward.shaping", "declares a need 'values', which no reward shaping is given"),
        (["entropy.controller=greedy"], "entropy.controller", "it can be given entropies"),
        (
            ["filter.episodes=best", "rollout.group_size=1", "trainer.mini_batch=8"],
            "filter.episodes",
            "rollout.group_size is 1",
        ),
        (["critic.coef=0.5"], "critic.coef", "shares the policy's trunk, and critic.shared is false"),
        (["critic.detach=true"], "critic.detach", "set critic.shared to true"),
        (
            ["collapse=[low_validation_success]", "validation.every=0"],
            "collapse.low_validation_success",
            "low_validation_success: it judges validations, and validation.every is 0",
        ),
    ],
)
def test_refused_with_the_reason(overrides, key, text):
    found = wrong(*overrides)
    assert list(found) == [key]
    assert text in found[key]


@pytest.mark.parametrize(
    "overrides",
    [
        ["advantage=grpo", "critic=null"],
        ["rollout.group_size=1", "trainer.mini_batch=8"],
        ["filter.select=top_p(0.9)", "filter.metric=reward", "rollout.group_size=1", "trainer.mini_batch=8"],
        ["advantage=grpo", "soft_advantage_reweight=true"],
        ["advantage=remax"],
        ["kl.placement=reward", "kl.coef=0.1"],
        ["kl.weight=detached", "kl.coef=0.1"],
        ["critic.policy_after=3"],
        ["critic={shared: true, lr: 1e-4, clip_value: 0.2, policy_after: 3, coef: 0.5, detach: true}"],
        ["trainer.token_budget=3600", "trainer.micro_batch=5"],
        ["rollout.max_turns=1"],
        ["rollout.context_window=single_turn", "trainer.mini_batch=640"],
        ["rollout.context_window=single_turn", "trainer.mini_batch=48"],
    ],
)
def test_what_goes_together(overrides):
    assert wrong(*overrides) == {}


def test_several_are_reported_at_once():
    found = wrong("critic=null", "trainer.micro_batch=5", "kl.placement=reward", "kl.weight=detached")
    assert set(found) == {"advantage", "trainer.mini_batch", "kl.weight"}


def test_needs_are_those_of_what_takes_part():
    assert needs(make()) == {"values"}
    assert needs(make("kl.coef=0.1")) == {"values", "reference"}
    assert needs(make("advantage=grpo")) == {"groups"}
    assert needs(make("filter.metric=entropy")) == {"values"}
    assert needs(make("filter.metric=entropy", "filter.select=top_k(3)")) == {"values", "entropies"}
    assert needs(make("advantage=grpo", "collapse=[reward_variance_collapse]")) == {"groups"}


def test_components_have_their_keys():
    found = dict(
        components(make("collapse=[empty_filter, low_validation_success]", "model.path=null", "model.build=tiny"))
    )
    assert list(found) == [
        "environment",
        "dialogue",
        "model.build",
        "model.head",
        "rollout.engine",
        "rollout.tasks",
        "rollout.batch",
        "reward.shaping",
        "filter.select",
        "filter.metric",
        "filter.episodes",
        "kl.estimator",
        "kl.controller",
        "entropy.controller",
        "advantage",
        "policy_loss",
        "correction",
        "collapse.empty_filter",
        "collapse.low_validation_success",
        "trainer.backend",
        "trainer.loss_aggregation",
        "trackers.jsonl",
        "trackers.progress",
    ]
    assert all(key.rpartition(".")[2] == named.name for key, named in found.items() if key.startswith("trackers"))


def test_ranks():
    check_ranks(make(), 1)
    check_ranks(make(), 8)
    check_ranks(make("trainer.micro_batch=1"), 4)
    with pytest.raises(CompositionError) as caught:
        check_ranks(make("rollout.groups=16"), 3)
    assert [problem.key for problem in caught.value.problems] == ["rollout.groups", "trainer.mini_batch"]
    assert "must be a multiple of 12, micro_batch on each of 3 processes; the nearest are 24 and 36" in str(
        caught.value
    )


def test_ranks_with_a_token_budget():
    packed = make("trainer.token_budget=3600", "rollout.groups=16", "rollout.group_size=2")
    check_ranks(packed, 16)  # 32 rows, 2 for each
    with pytest.raises(CompositionError, match="leaves some of the 64 processes without a row; at least 64"):
        check_ranks(make("trainer.token_budget=3600", "rollout.groups=64"), 64)
