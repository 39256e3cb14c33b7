"""The sweep ``interventions``: every registered remedy is a case of its own beside one baseline."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap

import pytest
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.plugins.sweeps.interventions import BESIDE, Interventions
from uncollapse.plugins.sweeps.sweep import load


def cases(**options):
    return {case["values"]["remedy"]: case["overrides"] for case in Interventions(**options).record()["cases"]}


@pytest.fixture(scope="module")
def everything():
    return Interventions().record()


def test_every_registered_name_of_these_kinds_takes_part_or_is_the_baselines_or_left_out_with_a_reason(everything):
    remedies = {case["values"]["remedy"].split("(")[0] for case in everything["cases"]}
    left_out = {notice.removeprefix("left out: ").split(":")[0].split("(")[0] for notice in everything["notices"]}
    missing = {f"{kind} {name}" for kind in BESIDE for name in registry().names(kind)} - remedies - left_out
    # what tiny-sokoban has anyway; two names of one thing, once a coefficient is given
    assert missing == {
        "advantage gae",
        "batch_sampler fixed",
        "episode_filter all",
        "kl_controller fixed",
        "loss_aggregation token-mean",
        "policy_loss ppo",
        "reward_shaping none",
        "rollout_filter nofilter",
        "sampler_correction none",
        "task_sampler sequential",
    }
    assert left_out == {"advantage gdpo"}  # tiny-sokoban has one reward
    assert len(everything["cases"]) > 60


def test_the_baseline_comes_first_and_has_no_remedy(everything):
    assert everything["cases"][0] == {"label": "baseline", "overrides": {}, "values": {"remedy": "baseline"}}
    off = everything["set"]
    assert (off["filter.select"], off["kl.coef"], off["entropy.coef"]) == ("nofilter", 0.0, 0.0)
    assert everything["ranked"] is True


def test_mutual_information_is_measured_beside_the_experiments_own_detectors(everything):
    names = [each if isinstance(each, str) else each["name"] for each in everything["set"]["collapse"]]
    assert names == [
        "reward_variance_collapse",
        "low_validation_success",
        "empty_filter",
        "no_signal",
        "mutual_information",
    ]


def test_a_remedy_brings_what_it_needs_to_mean_anything():
    assert cases(only="top_p,dynamic,pi,mse") == {
        "baseline": {},
        "rollout_filter top_p(0.9)": {"filter.select": "top_p(0.9)"},
        "batch_sampler dynamic": {"filter.select": "top_p(1, include_zero=false)", "rollout.batch": "dynamic"},
        "kl mse": {"kl.coef": 0.01, "kl.estimator": "mse"},
        "entropy_controller pi(0.2)": {"entropy.coef": 0.01, "entropy.controller": "pi(0.2)"},
    }


def test_parameters_that_are_asked_for_replace_those_of_the_comparison():
    assert list(cases(only="top_p(0.8),top_p(0.5, include_zero=false),clip_cov")) == [
        "baseline",
        "rollout_filter top_p(0.8)",
        "rollout_filter top_p(0.5, include_zero=false)",
        "policy_loss clip_cov",
    ]


def test_kinds_narrow_the_names_down():
    assert list(cases(kind="policy_loss,loss_aggregation", only="gpg,token-sum,gspo")) == [
        "baseline",
        "policy_loss gpg",
        "policy_loss gspo",
        "loss_aggregation token-sum",
    ]


def test_the_baseline_can_be_another():
    sweep = load("interventions", only="grpo,gae,rloo", baseline="advantage=grpo; trainer.lr=1e-5")
    assert (sweep.overrides["advantage"], sweep.overrides["trainer.lr"]) == ("grpo", 1e-5)
    points = {point.values["remedy"]: point.experiment.advantage.name for point in sweep.points()}
    assert points == {"baseline": "grpo", "advantage gae": "gae", "advantage rloo": "rloo"}


def test_a_remedy_that_the_experiment_cannot_have_is_left_out_with_the_reason():
    record = Interventions(kind="advantage", baseline="rollout.group_size=1; rollout.groups=128").record()
    labels = [case["label"] for case in record["cases"]]
    reason = "left out: advantage grpo: grpo compares the episodes of a group, and rollout.group_size is 1"
    assert reason in record["notices"]
    assert "advantage-grpo" not in labels
    assert "advantage-reinforce_plus_plus" in labels


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"only": "gsop"}, "there is no remedy 'gsop'.*gspo"),
        ({"kind": "policy_los"}, "no remedy is of the kind 'policy_los'.*policy_loss"),
        ({"kind": "environment"}, "no remedy is of the kind 'environment'"),
        ({"only": "ppo"}, "there is nothing to compare"),
        ({"only": "gspo("}, "a '\\)' is missing"),
        ({"baseline": "advantage"}, "has no value"),
        ({"baseline": "advantag=grpo"}, "advantag"),
        ({"only": "gspo,top_p(1.5)"}, "filter.select.value = 1.5"),
        ({"only": "grpo,gspo", "baseline": "rollout.group_size=1; rollout.groups=128"}, "rollout.group_size is 1"),
    ],
)
def test_wrong_requests_are_refused(options, says):
    with pytest.raises(RequestError) as refused:
        Interventions(**options).record()
    assert re.search(says, str(refused.value), re.DOTALL), refused.value


PLUGIN = textwrap.dedent(
    '''
    """Two remedies of somebody else."""
    import attrs
    from uncollapse.api import PolicyLoss, LossOutput, hookimpl


    @attrs.frozen
    class Half(PolicyLoss):
        """Half of the policy gradient."""

        share: float
        """Share that is left."""
        in_comparison = {"share": 0.5, "trainer.epochs": 2}

        def __call__(self, inputs):
            return LossOutput(-self.share * inputs.advantages * inputs.logprobs, {})


    @attrs.frozen
    class Quarter(PolicyLoss):
        """A quarter; it does not say what to compare."""

        share: float
        """Share that is left."""

        def __call__(self, inputs):
            return LossOutput(-self.share * inputs.advantages * inputs.logprobs, {})


    @hookimpl
    def register_policy_losses(register):
        register("half", Half)
        register("quarter", Quarter)
    '''
)


def test_the_names_of_a_plugin_join_by_themselves(tmp_path):
    (tmp_path / "theirs.py").write_text(PLUGIN)
    words = ["sweep", "show", "interventions", "--plugin", str(tmp_path / "theirs.py"), "--kind", "policy_loss"]
    command = [sys.executable, "-m", "uncollapse.cli.main", *words, "--json"]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert "policy_loss-half_0.5" in shown
    assert shown["policy_loss-half_0.5"]["trainer.epochs"] == "2"
    # a required parameter that nobody gives has no default to compare with
    assert not any("quarter" in label for label in shown)
    assert "policy_loss-gspo" in shown
