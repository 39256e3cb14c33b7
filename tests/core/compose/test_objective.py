"""What cannot mean anything together is refused with the key, the reason and the way out; its neighbour is not."""

from typing import ClassVar

import attrs
import pytest
from uncollapse.core.components import PolicyLoss, SamplerCorrection
from uncollapse.core.compose.config import compose, problems
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.registry import registry
from uncollapse.plugins.training.heads.torch_head import Torch
from uncollapse.plugins.training.heads.trl_head import Trl

BASE = {"environment": "sokoban", "model": {"path": "org/model"}}
ROWS = "the two together are the weight of neither a token nor a row; choose a correction that weighs rows"
ONCE_MORE = "which is the same once more"


def found(*overrides):
    return {problem.key: str(problem) for problem in problems(BASE, overrides)}


@pytest.mark.parametrize(
    ("overrides", "key", "text"),
    [
        *(
            (
                [f"policy_loss={loss}", f"correction={correction}"],
                "correction",
                f"weighs single tokens, and {loss.partition('(')[0]} has one ratio of the whole row: {ROWS}",
            )
            for loss in ("gspo", "luspo", "gmpo", "vespo", "top_entropy(of=gspo)", "off_policy_mask(of=gspo)")
            for correction in ("tis", "icepop", "sequence_mask", "sequence_divergence(weight=token)")
        ),
        *(
            (
                [f"policy_loss={loss}", f"correction={correction}"],
                "policy_loss",
                "its ratio is already one to the sampler, and correction would weigh every token by that once more; "
                "set correction: none",
            )
            for loss in ("dppo_tv", "dppo_kl", "top_entropy(of=dppo_tv)", "off_policy_mask(of=dppo_kl)")
            for correction in ("tis", "sequence_tis")
        ),
        (["policy_loss=top_entropy(of=gmpo)"], "policy_loss", "trains all tokens of its row: give of a loss"),
        (["policy_loss=top_entropy(of=top_entropy(0.1))"], "policy_loss", ONCE_MORE),
        (["policy_loss=top_entropy(of=off_policy_mask(of=top_entropy))"], "policy_loss", ONCE_MORE),
        (["policy_loss=off_policy_mask(of=off_policy_mask)"], "policy_loss", ONCE_MORE),
        (["policy_loss=clip_cov(cov_low=2, cov_high=2)"], "policy_loss", "cov_high must be more than cov_low, 2.0"),
        (["advantage=entrocraft(of=entrocraft)"], "advantage", ONCE_MORE),
        (["advantage=maxrl", "reward.normalization=mean"], "advantage", "divides by the mean reward of a group"),
        (
            ["advantage=maxrl", "reward={normalization: mean_std, over: batch}"],
            "advantage",
            "reward.normalization is mean_std, which makes means of 0 or less: set it to identity",
        ),
        *(
            (
                [f"advantage={name}", f"environment={environment}"],
                "advantage.of" if "of" in name else "advantage",
                f"no reward of {environment} is below 0.0: set threshold between failure and success, such as 0.5",
            )
            for name in ("nsr", "w_reinforce", "entrocraft(of=nsr)")
            for environment in ("countdown", "frozen_lake", "bandit")
        ),
        (["filter.episodes=best_worst(9)"], "filter.episodes", "rollout.group_size = 16 episodes: set k to at most 8"),
        (["filter.select=quantile(0.3, 0.32)"], "filter.select", "no rank of rollout.groups = 8 lies between"),
        (
            ["filter.select=quantile(0.25, 0.5)", "rollout.groups=1", "trainer.mini_batch=8"],
            "filter.select",
            "no rank of rollout.groups = 1 lies between the shares 0.25 and 0.5",
        ),
        (
            ["filter.select=quantile(0.01, 0.02, include_zero=false)"],
            "filter.select",
            "no rank of rollout.groups = 8 lies between",
        ),
        (
            ["entropy.controller=schedule"],
            "entropy.controller",
            "moves from entropy.coef to end, and both are 0.0: set entropy.coef, or another end",
        ),
        (
            ["entropy={coef: 0.1, controller: schedule(end=0.1)}"],
            "entropy.controller",
            "moves from entropy.coef to end, and both are 0.1",
        ),
        (["entropy.controller=pi(0.5, low=0, high=0)"], "entropy.controller", "nothing could move"),
        (
            ["reward.shaping=overlong(limit=3000)"],
            "reward.shaping",
            "takes nothing off up to 2400 tokens (limit - buffer), and no episode has more than 2000: set limit to at "
            "most 2000 tokens",
        ),
        (
            ["reward.shaping=length(free=2000)"],
            "reward.shaping",
            "lets 2000 tokens be free, and no episode has more than 2000: set free below that",
        ),
        (
            ["reward.shaping=length(free=600)", "rollout.max_context=600"],
            "reward.shaping",
            "no episode has more than 600",
        ),
        (["rollout.batch=replay"], "rollout.batch", "correction: none would train old groups as if"),
        (["rollout.batch=replay", "policy_loss=m2po"], "rollout.batch", "correction: none would train old groups"),
        (
            ["rollout.batch=dynamic(size=16385)", "filter.select=top_p(1, include_zero=false)"],
            "rollout.batch",
            "a round of size 16385 is 262160 episodes, which are held at once: at most 262144 are",
        ),
        (
            ["advantage=entrocraft(of=remax)", "reward.shaping=length"],
            "reward.shaping",
            "compares with the raw rewards of greedy ones; set it to none",
        ),
        (["rollout.batch=dynamic"], "rollout.batch", "keeps every group, so nothing would ever be discarded"),
    ],
    ids=str,
)
def test_refused_with_the_reason(overrides, key, text):
    refused = found(*overrides)
    assert list(refused) == [key]
    assert text in refused[key]


@pytest.mark.parametrize(
    "overrides",
    [
        *(
            [f"policy_loss={loss}", f"correction={correction}"]
            for loss in ("gspo", "luspo", "gmpo", "vespo", "top_entropy(of=gspo)")
            for correction in ("sequence_tis", "sequence_mask(weight=none)", "sequence_divergence")
        ),
        ["policy_loss=top_entropy(of=off_policy_mask(of=dppo_tv))"],
        ["policy_loss=off_policy_mask(of=gmpo)"],
        ["policy_loss=m2po", "correction=tis"],
        ["policy_loss=clip_cov(cov_low=0.1)"],
        ["advantage=maxrl"],
        ["advantage=nsr"],
        ["advantage=nsr(threshold=0.5)", "environment=countdown"],
        ["advantage=nsr", "environment=countdown", "reward.normalization=mean"],
        ["advantage=w_reinforce", "environment=bandit(low=-1)"],
        ["advantage=nsr", "environment=countdown", "reward.shaping=length(0.01)"],
        ["filter.episodes=best_worst(8)"],
        ["filter.select=quantile(0.3, 0.4)"],
        ["filter.select=quantile(0.3, 0.4, include_zero=false)", "rollout.groups=16"],
        ["entropy={coef: 0.1, controller: schedule}"],
        ["entropy.controller=schedule(end=-0.1)"],
        ["entropy.controller=pi(0.5)"],
        ["reward.shaping=overlong(limit=2400)"],
        ["reward.shaping=overlong(limit=2400, buffer=401)"],
        ["reward.shaping=length(free=1999)"],
        ["reward.shaping=length(free=1000)", "rollout={context_window: single_turn, max_context: 600}"],
        ["rollout.batch=replay", "policy_loss=dppo_tv"],
        ["rollout.batch=replay", "policy_loss=gspo", "correction=sequence_tis"],
    ],
    ids=str,
)
def test_what_goes_together(overrides):
    assert found(*overrides) == {}


class _Third:
    """What a plugin of somebody else says of its components."""

    def loss(self, **says):
        made = type("Loss", (PolicyLoss,), {"__call__": lambda self, inputs: None, "__slots__": (), **says})
        return attrs.frozen(made)

    def correction(self, **says):
        made = type("Correction", (SamplerCorrection,), {"correction": lambda self, *given: None, **says})
        return attrs.frozen(made)


@pytest.fixture
def third(monkeypatch):
    """Registers classes under the name of a built-in for one test."""
    known = registry()

    def register(kind, name, target):
        monkeypatch.setitem(known._entries[kind], name, attrs.evolve(known.entry(kind, name), target=target))

    return register


def test_the_components_of_others_take_part(third):
    third("policy_loss", "gspo", _Third().loss(ratio_of="rows"))
    third("policy_loss", "ppo", _Third().loss(corrects=True))
    third("sampler_correction", "tis", _Third().correction(weighs="rows"))
    third("sampler_correction", "icepop", _Third().correction())
    assert found("policy_loss=gspo", "correction=tis") == {}
    assert ROWS in found("policy_loss=gspo", "correction=icepop")["correction"]
    assert "already one to the sampler" in found("policy_loss=ppo", "correction=tis")["policy_loss"]
    assert found("policy_loss=ppo", "rollout.batch=replay") == {}


@pytest.mark.parametrize(
    ("need", "text"),
    [
        ("values", "declares a need 'values', which no policy loss is given: a mistake in its plugin"),
        ("scorer", "it can be given entropies, groups, logprobs, minibatch, reference, sampler_logprobs, turns"),
    ],
)
@pytest.mark.parametrize("critic", [[], ["critic=null"]])
def test_a_loss_cannot_need_what_no_loss_is_given(third, need, text, critic):
    """Also not where no critic is there to begin with: one reason says it."""
    third("policy_loss", "gpg", _Third().loss(needs=frozenset({need})))
    refused = found("policy_loss=gpg", "advantage=grpo", *critic)
    assert list(refused) == ["policy_loss"]
    assert text in refused["policy_loss"]


def test_a_head_must_compute_what_is_needed(third):
    @attrs.frozen
    class Fewer(Torch):
        gives: ClassVar[frozenset[str]] = frozenset({"second_moments"})

    third("token_head", "torch", Fewer)
    assert Trl.gives == frozenset()
    with pytest.raises(CompositionError, match="does not compute collision probs, which the experiment needs"):
        compose(BASE, ["advantage=otb", "model.head=torch"])
    assert found("advantage=grpo", "model.head=torch") == {}
