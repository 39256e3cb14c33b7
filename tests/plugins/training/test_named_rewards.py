"""Environments with several rewards: how they are weighed, logged apart, and handed to estimators that need them."""

import json
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
import uncollapse
from uncollapse.core.components import Env, Environment, Rollouts, Step
from uncollapse.core.compose.named import Named
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.errors import RunError
from uncollapse.core.registry import registry
from uncollapse.plugins.probe.next_step import with_step
from uncollapse.plugins.probe.read_config import ConfigError, read_config
from uncollapse.plugins.probe.sampling.samples import Sample
from uncollapse.plugins.probe.sampling.sources import EnvironmentSource
from uncollapse.plugins.rollout.borders import CheckedEnvironment
from uncollapse.plugins.rollout.named_rewards import by_name
from uncollapse.plugins.rollout.sampler_state import from_plain, to_plain
from uncollapse.plugins.training.step import stages
from uncollapse.plugins.training.step.metrics import validation_metrics
from uncollapse.testing import samples

PLUGIN = Path(__file__).with_name("rewards_plugin.py")
WEIGHTS = {"brief": 0.5, "steps": 0.0}


@attrs.frozen
class World(Environment):
    """Gives ``step`` in answer to each action."""

    given: object
    reward_names = ("right", "brief")
    instruction = "Say anything."
    actions = None

    def make(self, seed, member=0):
        return Player(self.given)


@attrs.frozen
class One(World):
    """Has one reward."""

    reward_names = ()


@attrs.frozen
class Weighed(World):
    """Has weights of its own."""

    reward_weights = {"brief": 0.25}


class Player(Env):
    def __init__(self, given):
        self.given = given

    def initial_observation(self):
        return "?"

    def step(self, action):
        return self.given


def play(step, weights=None, world=World):
    named = Named("environment", "world", {}, world(step))
    return CheckedEnvironment(named, weights={} if weights is None else weights).make(0).step("a")


# --- steps ---


def test_the_reward_of_a_step_is_the_weighted_sum_of_its_rewards():
    given = Step("on", rewards={"right": 1, "brief": -0.5})
    assert play(given).reward == 0.5
    assert play(given, {"brief": 0.25, "right": 2.0}).reward == 1.875
    assert play(given, {"brief": 0.0}).reward == 1.0


def test_an_environments_own_weights_hold_where_none_are_given():
    given = Step("on", rewards={"right": 1, "brief": -1})
    assert play(given, world=Weighed).reward == 0.75
    assert play(given, {"right": 2.0}, Weighed).reward == 1.75
    assert play(given, {"brief": 1.0}, Weighed).reward == 0.0


def test_a_reward_that_is_left_out_is_0():
    assert play(Step("on", rewards={"right": 1})).rewards == {"right": 1.0, "brief": 0.0}
    assert (play(Step("on")).reward, play(Step("on")).rewards) == (0.0, {"right": 0.0, "brief": 0.0})


def test_an_environment_with_one_reward_is_as_it_was():
    assert play(Step("on", 0.7), world=One) == Step("on", 0.7)


@pytest.mark.parametrize(
    ("step", "world", "told"),
    [
        (Step("", rewards={"rigth": 1.0}), World, "gave a reward 'rigth', which reward_names does not .*'right'"),
        (Step("", rewards={"right": 1.0}), One, "gave a reward 'right', .*: reward_names is empty"),
        (Step("", 1.0, rewards={"right": 1.0}), World, "gave reward = 1 beside the rewards .*right, brief"),
        (Step("", rewards={"right": float("nan")}), World, "gave right = nan, which is not a finite number"),
        (Step("", rewards={"right": None}), World, "gave right = None, .*not a number"),
        (Step("", rewards={3: 1.0}), World, "gave int 3, not a text"),
        (Step("", rewards=[1.0]), World, r"gave rewards = \[1.0\], which is not a mapping"),
        (Step("", rewards={"right": 1e308, "brief": 1e308}), World, "gave rewards whose weighted sum is inf"),
    ],
)
def test_wrong_rewards_are_refused_by_name(step, world, told):
    with pytest.raises(RunError, match=f"environment 'world': step {told}"):
        play(step, world=world)


# --- composition ---


@pytest.fixture(scope="module", autouse=True)
def plugin():
    """Load the worlds of the plugin."""
    registry().load_file(PLUGIN)


@pytest.fixture(scope="module")
def several(bandit):
    rollout = {**bandit["rollout"], "max_turns": 2, "group_size": 4, "format_penalty": 0.0}
    return {
        **bandit,
        "environment": "named_rewards",
        "dialogue": "says_on",
        "rollout": rollout,
        "reward": {"weights": WEIGHTS},
        "advantage": "gdpo",
        "validation": {"groups": 4, "every": 2},
        "trainer": {**bandit["trainer"], "steps": 2, "mini_batch": 16},
    }


def refused(experiment, *overrides):
    with pytest.raises(CompositionError) as caught:
        uncollapse.compose(experiment, overrides)
    return " ".join(str(caught.value).split())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["reward.weights.brif=1"],
            "reward.weights.brif: is a weight, and the environment named_rewards has no reward 'brif'",
        ),
        (["reward.weights.brief=nan"], "reward.weights.brief"),
        (["reward.weights.brief=much"], "reward.weights.brief"),
        (
            ["reward.weights.brief=0"],
            "advantage: gdpo compares several rewards, and the environment named_rewards has 1 with",
        ),
        (["reward.weights={right: 0, brief: 0, steps: 0}", "advantage=grpo"], "weighs every reward with 0"),
        (["reward.weights.format_penalty=2"], "has no reward 'format_penalty'"),
        (["environment=summed_rewards", "reward.weights=null"], "environment summed_rewards has only one"),
        (["environment=summed_rewards", "advantage=grpo"], "environment summed_rewards has one reward, without a name"),
        (["reward.shaping=length"], "reward.shaping"),
        (["reward.normalization=mean_std"], "reward.normalization"),
        (["reward.placement=turn"], "reward.placement"),
        (["kl.coef=0.1", "kl.placement=reward"], "kl.placement"),
        (["rollout.group_size=1", "trainer.mini_batch=4"], "rollout.group_size is 1"),
        (["advantage=gdpo(eps=0)"], "eps"),
        (["advantage=gdpo(over=rows)"], "over"),
        (
            ["policy_loss=gspo", "advantage=entrocraft(of=gdpo)", "environment=summed_rewards"],
            "gdpo compares several rewards",
        ),
    ],
)
def test_what_cannot_be_is_refused(several, overrides, told):
    assert told in refused(several, *overrides)


def test_overrides_reach_a_weight(several):
    assert uncollapse.compose(several, ["reward.weights.brief=2"]).reward.weights == {"brief": 2.0, "steps": 0.0}
    assert uncollapse.compose(several, ["reward.weights=null", "advantage=grpo"]).reward.weights == {}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["right"], "must be a tuple of texts"),
        ("right", "must be a tuple of texts"),
        (("a", "a"), "holds 'a' twice"),
        (("a/b",), "holds 'a/b'"),
        (("",), "holds ''"),
        (("format_penalty",), "holds 'format_penalty', which is the run's own"),
        (object, "environment"),
    ],
)
def test_names_that_cannot_be_used_are_refused(several, names, told):
    world = {"name": "odd_rewards", "names": repr(names)}
    assert told in refused({**several, "environment": world, "reward": {}, "advantage": "grpo"})


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ("{'b': 1.0}", "reward_weights holds 'b': 1.0"),
        ("{'a': 1e999}", "reward_weights holds 'a': inf"),
        ("{'a': 'much'}", "could not convert string to float"),
        ("{'a': 0}", "weighs every reward with 0"),
        ("[1]", "has no attribute 'items'"),
    ],
)
def test_own_weights_that_cannot_be_used_are_refused(several, weights, told):
    world = {"name": "odd_rewards", "names": "('a',)", "weights": weights}
    assert told in refused({**several, "environment": world, "reward": {}, "advantage": "grpo"})


# --- rows ---


def test_rollouts_hold_the_rewards_by_name_and_keep_them_with_their_episodes():
    sampled = samples.rollouts({"rewards_by_name"})
    kept = sampled.select_episodes(torch.tensor([True, False, True, False, True, False, True, False]))
    for name, rewards_E in sampled.rewards_by_name.items():
        assert torch.equal(kept.rewards_by_name[name], rewards_E[::2])
    weighed = sum(sampled.reward_weights[name] * rewards_E for name, rewards_E in sampled.rewards_by_name.items())
    torch.testing.assert_close(weighed, sampled.raw_rewards_E)
    with pytest.raises(RunError, match=r"rewards_by_name\['right'\] has shape \(3,\), raw_rewards_E has \(8,\)"):
        attrs.evolve(sampled, rewards_by_name={"right": torch.zeros(3)})
    with pytest.raises(RunError, match=r"a reward 'right' is NaN or infinite"):
        attrs.evolve(sampled, rewards_by_name={"right": torch.full((8,), torch.inf)})


def test_format_penalties_are_a_reward_of_their_own(several):
    group = samples.group(5, 0, 3)
    turns = [attrs.evolve(turn, rewards={"right": 0.25}) for turn in group.episodes[0].turns]
    episodes = [attrs.evolve(group.episodes[0], turns=tuple(turns)), *group.episodes[1:]]
    rewards = by_name(episodes, ("right", "brief"), True)
    assert {name: values.tolist() for name, values in rewards.items()} == {
        "right": [0.5, 0.0, 0.0],
        "brief": [0.0, 0.0, 0.0],
        "format_penalty": pytest.approx([-0.2, -0.2, -0.2]),
    }
    assert list(by_name(episodes, ("right", "brief"), False)) == ["right", "brief"]
    assert by_name(episodes, (), True) == {}
    experiment = uncollapse.compose(several, ["rollout.format_penalty=0.1"])
    rollouts = stages.to_rollouts(episodes, experiment)
    assert rollouts.reward_weights == {"right": 1.0, "brief": 0.5, "steps": 0.0, "format_penalty": 1.0}
    assert isinstance(rollouts, Rollouts)


def test_a_checkpoint_keeps_the_rewards_of_a_group():
    group = samples.group(1, 0, 2)
    turns = tuple(attrs.evolve(turn, rewards={"right": 1 / 3}) for turn in group.episodes[0].turns)
    group = attrs.evolve(group, episodes=(attrs.evolve(group.episodes[0], turns=turns), group.episodes[1]))
    assert from_plain(json.loads(json.dumps(to_plain(group)))) == group
    assert validation_metrics(list(group.episodes))["validation/reward/right"] == pytest.approx(1 / 3)


# --- runs ---


def trained(experiment, run):
    uncollapse.train(experiment, run)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["step"]]


@pytest.mark.slow
def test_a_run_logs_each_reward_and_trains_on_their_weighted_sum(several, tmp_path):
    by_names = trained({**several, "advantage": "grpo"}, tmp_path / "named")
    summed = trained(
        {**several, "advantage": "grpo", "environment": "summed_rewards", "reward": {}}, tmp_path / "summed"
    )
    first = by_names[0]
    # seeds 10000 to 10003, members 0 to 3, two turns: right in every second episode, brief in 6 of 16 by 1/4, 2/4
    assert {name: first[name] for name in first if name.startswith("reward/")} == {
        "reward/right": pytest.approx(1.0),
        "reward/brief": pytest.approx(2 * sum((s * m) % 3 / 4 for s in range(10000, 10004) for m in range(4)) / 16),
        "reward/steps": pytest.approx(-0.25),
    }
    assert first["train/reward"] == pytest.approx(first["reward/right"] + 0.5 * first["reward/brief"])
    assert by_names[1]["validation/reward/steps"] == pytest.approx(-0.25)
    own = ("reward/", "validation/reward/", "timing_s/")
    for one, other in zip(by_names, summed, strict=True):
        assert {k: v for k, v in one.items() if not k.startswith(own)} == {
            k: v for k, v in other.items() if not k.startswith("timing_s/")
        }


@pytest.mark.slow
def test_gdpo_trains_and_goes_on_after_a_resume(several, tmp_path):
    several = {**several, "trainer": {**several["trainer"], "save_every": 1}}
    whole = trained(several, tmp_path / "whole")
    assert whole[0]["critic/advantages_std"] > 0.5
    trained({**several, "trainer": {**several["trainer"], "steps": 1}}, tmp_path / "run")
    uncollapse.train(several, tmp_path / "run", resume=True, steps=2)
    weights = [
        next(iter((tmp_path / run).glob("checkpoints/step_2/model/model.safetensors"))) for run in ("whole", "run")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


# --- the probe ---


def test_the_probe_weighs_the_rewards_of_its_samples(several):
    experiment = uncollapse.compose(several)
    source = EnvironmentSource(
        experiment.environment.component, experiment.dialogue.component, experiment.rollout, experiment.reward
    )
    assert source._weighed().make(3, 0).step("on").reward == 1.0
    assert source._weighed().make(2, 2).step("on").reward == 0.125
    group = samples.group(5, 0, 2)
    turns = tuple(attrs.evolve(turn, rewards={"right": 0.25}) for turn in group.episodes[0].turns)
    episodes = [attrs.evolve(group.episodes[0], turns=turns), group.episodes[1]]
    rollouts = Sample.of(episodes, (5,), source, 0.0).rollouts
    assert {name: rewards_E.tolist() for name, rewards_E in rollouts.rewards_by_name.items()} == {
        "right": [0.5, 0.0],
        "brief": [0.0, 0.0],
        "steps": [0.0, 0.0],
    }
    assert rollouts.reward_weights == {"right": 1.0, "brief": 0.5, "steps": 0.0}


def test_the_probe_refuses_to_compare_rewards_that_nothing_names(several, tmp_path):
    given = {"batch_config": {"B_E": 2, "B_U": 2, "G": 2}, "policy_gradient": {"advantage": "gdpo"}}
    for environment, refuses in (("summed_rewards", True), ("named_rewards", False)):
        given["batch_config"]["environment"] = environment
        config = read_config(given).config
        if refuses:
            with pytest.raises(ConfigError, match="compares several rewards, which only environments name"):
                with_step(config, None)
        else:
            assert str(with_step(config, None).policy_gradient.advantage) == "gdpo"


@pytest.mark.slow
def test_a_run_with_gdpo_is_probed(several, tmp_path):
    uncollapse.train(several, tmp_path / "run")
    words = ["probe", "single", "--checkpoint", "run", "--trust", "--runs", "1", "--results", str(tmp_path)]
    words += ["--set", "batch_config={B_E: 2, B_U: 2, G: 2}"]
    command = [sys.executable, "-m", "uncollapse.cli.main", "--plugin", str(PLUGIN), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "advantage gdpo" in done.stdout + done.stderr
