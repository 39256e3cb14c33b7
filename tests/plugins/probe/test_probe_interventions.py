"""The probe predicts the step with the rewards that the run shapes, and the coefficient that its controller has."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest
import torch
import uncollapse
from uncollapse.core.components import Answer, CreditInputs
from uncollapse.core.compose.experiment import Reward, Rollout
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.environments.bandit import Bandit
from uncollapse.plugins.probe.credit import estimator
from uncollapse.plugins.probe.next_step import left_out, what_was_learnt, with_step
from uncollapse.plugins.probe.own_run import OwnRun
from uncollapse.plugins.probe.read_config import read_config
from uncollapse.plugins.probe.sampling.samples import Sample
from uncollapse.plugins.probe.sampling.sources import EnvironmentSource
from uncollapse.plugins.rollout.episode import Episode, Turn
from uncollapse.plugins.training.step.rewards import Shaping

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import interventions_plugin as parts


@pytest.fixture
def run(bandit, tmp_path):
    experiment = uncollapse.compose(bandit, ["advantage=rloo", "entropy_coeff=-0.5"])
    entropy, chosen = experiment.entropy, experiment.filter
    controller = attrs.evolve(entropy.controller, component=parts.Halving())
    first = attrs.evolve(chosen.episodes, component=parts.Second())
    return OwnRun(
        tmp_path,
        attrs.evolve(
            experiment,
            entropy=attrs.evolve(entropy, controller=controller),
            filter=attrs.evolve(chosen, episodes=first),
        ),
        tmp_path,
        {"step": 2, "entropy_controller": {"coef": -0.125}},
    )


def test_the_coefficient_is_the_one_that_the_controller_has_reached(run):
    config = read_config({"batch_config": {"B_E": 2, "B_U": 2, "G": 2}}).config
    assert with_step(config, run).policy_gradient.entropy_coeff == run.entropy_coef == -0.125
    assert attrs.evolve(run, state={}).entropy_coef == -0.5
    given = read_config({"policy_gradient": {"entropy_coeff": 0.75}}).config
    assert with_step(given, run).policy_gradient.entropy_coeff == 0.75


def test_what_the_probe_cannot_do_is_said(run):
    said = list(left_out(read_config({"batch_config": {"B_E": 2, "B_U": 2, "G": 2}}).config, run))
    assert "the entropy controller fixed is not told of U: its coefficient is the one that it has reached" in said
    assert "the run's filter of episodes all is not applied: all episodes of U train" in said


@pytest.mark.parametrize(("given", "baseline"), [("rae(0.5)", 2.0), ("rae(0.25)", 0.0)])
def test_the_estimator_goes_on_from_what_the_run_has_learnt(bandit, tmp_path, given, baseline):
    """Every step begins at the checkpoint, and an estimator that the run does not have begins anew."""
    experiment = uncollapse.compose(bandit, ["advantage=rae(0.5)"])
    run = OwnRun(tmp_path, experiment, tmp_path, {"step": 2, "advantage": {"own": {"baseline": 2.0}, "held": []}})
    configured = {"batch_config": {"B_E": 2, "B_U": 2, "G": 2}, "policy_gradient": {"advantage": given}}
    config = with_step(read_config(configured).config, run)
    session = SimpleNamespace(config=config, run=run)
    batch = CreditInputs(torch.ones(1, 1), torch.ones(1, 1).bool(), torch.zeros(1).long())
    advantages = [estimator(session).compute(batch).advantages.item() for _ in range(2)]
    assert advantages == [1.0 - baseline] * 2
    assert len(list(what_was_learnt(config, run))) == (baseline == 0)
    assert len(list(what_was_learnt(config, None))) == 1
    assert estimator(SimpleNamespace(config=config, run=attrs.evolve(run, state={}))).metrics() == {"baseline": 0.0}


def test_an_estimator_without_state_has_learnt_nothing_to_speak_of(run):
    config = read_config({"policy_gradient": {"advantage": "entrocraft(of=rloo)"}}).config
    assert list(what_was_learnt(config, run)) == []
    config = read_config({"policy_gradient": {"advantage": "entrocraft(of=rae)"}}).config
    (said,) = what_was_learnt(config, run)
    assert "the advantage entrocraft(of=rae) learns from step to step, and begins anew" in said


def episode(seed, member, reward, tokens):
    sampled = {"prompt": (1, 2), "tokens": (3,) * tokens, "logprobs": (-0.5,) * tokens, "stop_reason": "eos"}
    said = {"user": "?", "response": "x", "answer": Answer(actions=("x",), parsed=1), "executed": 1, "penalty": 0.0}
    turn = Turn(**sampled, **said, reward=reward)
    return Episode(seed=seed, member=member, system="", turns=(turn,), stop="success" if reward else "done", metrics={})


@pytest.mark.parametrize("normalization", ["identity", "mean"])
def test_samples_have_the_rewards_of_the_step_that_is_predicted(normalization):
    shaping = Shaping(parts.Brief(), 6, step=3, steps=10)
    reward = Reward(normalization=normalization)
    source = EnvironmentSource(Bandit(), ThinkAnswer(), Rollout(max_turns=1), reward, shaping)
    episodes = [episode(0, 0, 1.0, 4), episode(0, 1, 0.0, 2), episode(1, 0, 2.0, 1), episode(1, 1, 2.0, 3)]
    sample = Sample.of(episodes, (0, 1), source, 0.0)
    shaped_E = torch.tensor([1.0 - 1.0, -0.5, 2.0 - 0.25, 2.0 - 0.75]) - 3.0
    expected_E = shaped_E if normalization == "identity" else shaped_E - torch.tensor([-3.25, -3.25, -1.5, -1.5])
    assert torch.allclose(sample.rollouts.rewards.sum(1), expected_E)
    assert sample.rewards.tolist() == [1.0, 0.0, 2.0, 2.0]
    assert source.describe() == attrs.evolve(source, shaping=None).describe()


@pytest.mark.slow
def test_a_run_with_parts_of_a_plugin_is_probed_with_them(bandit, tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text(json.dumps(bandit))
    settings = (
        *("advantage=rloo", "entropy={coef: 0.5, controller: halving}", "reward.shaping=brief"),
        *("filter.episodes=second", "trainer.steps=2", "validation.every=0", "collapse=[]"),
    )

    def uncollapse_(*words):
        words = [sys.executable, "-m", "uncollapse.cli.main", "--plugin", parts.__file__, *map(str, words)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    sets = [word for setting in settings for word in ("--set", setting)]
    uncollapse_("train", base, *sets, "--run-dir", "run")
    records = [json.loads(line) for line in Path(tmp_path, "run", "metrics.jsonl").read_text().splitlines()]
    assert [record["actor/entropy_coef"] for record in records if record["step"]] == [0.25, 0.125]
    said = uncollapse_(
        *("probe", "single", "--checkpoint", "run", "--trust", "--runs", 1),
        *("--set", "batch_config={B_E: 2, B_U: 2, G: 2}", "--results", tmp_path),
    )
    assert "entropy bonus 0.125" in said
    assert "the entropy controller halving is not told of U" in said
    assert "the run's filter of episodes second is not applied" in said
