"""The predicted step is the one that the run makes: on the run's own batch, its parameters move as predicted."""

import json
import sys
from pathlib import Path

import attrs
import pytest
import torch
import uncollapse
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core.compose.problems import Invalid
from uncollapse.core.errors import RequestError
from uncollapse.core.yaml import loads
from uncollapse.plugins.probe import OfflineEntropyProbe
from uncollapse.plugins.probe.checkpoint.load import load_checkpoint
from uncollapse.plugins.probe.credit import credit, reference_logprobs
from uncollapse.plugins.probe.estimation.passes import trained
from uncollapse.plugins.probe.forecast import forecast
from uncollapse.plugins.probe.next_step import step_lines
from uncollapse.plugins.probe.read_config import ConfigError, read_config, to_yaml
from uncollapse.plugins.probe.sampling.samples import Sample
from uncollapse.plugins.probe.session import Session
from uncollapse.plugins.training.step import stages

sys.path.insert(0, str(Path(__file__).parent))
import probe_ranks_script as script

STEPS = 3
ONE_STEP = (
    "collapse=[entropy_forecast(every=1)]",
    "trainer.mini_batch=8",
    f"trainer.steps={STEPS}",
    "trainer.save_every=1",
    "validation.every=0",
    "validation.before_train=false",
)
LORA = "model.lora={rank: 2, alpha: 8}"
RUNS = {
    "clipped": ("advantage=grpo", "trainer.grad_clip=0.05", LORA),
    "kl in the loss": (
        "advantage=rloo",
        "kl={coef: 0.5, estimator: k2}",
        "trainer.loss_aggregation=seq-mean-token-sum-norm",
        "trainer.lr_schedule=linear",
        LORA,
    ),
    "kl in the reward, of a full model": ("advantage=grpo", "kl={coef: 0.5, placement: reward}"),
    "a critic": ("advantage=gae(gamma=0.9, lam=0.8)", "trainer.loss_aggregation=seq-mean-token-mean", LORA),
    "a critic on the trunk": ("advantage=gae", "critic={shared: true, detach: true}", LORA),
    "reweighted": ("advantage=grpo", "soft_advantage_reweight=true", "kl.coef=0", LORA),
    "what the estimators have learnt": ("advantage=entropic(1.0, kp=0.1, of=rae)", LORA),
    "without a task": ("advantage=grpo", "zero_task_advantage=true", "entropy_coeff=0.3", LORA),
}
SETTINGS = {"batch_config": {"B_E": 2, "B_U": 4, "G": 2}, "probe_rework": {"master_seed": 1}}


@pytest.fixture
def batches(monkeypatch):
    """Of every training step the rollouts and the learning rate; every response earns something of its own."""
    found, plain = [], stages.to_rollouts

    def paid(episodes, experiment, step=0):
        return script.rewarded(Sample([], plain(episodes, experiment, step), (), 0.0)).rollouts

    def watched(update, *_):
        found.append((update.rollouts, update.lr))

    monkeypatch.setattr(stages, "to_rollouts", paid)
    monkeypatch.setattr(forecast.Before, "of", watched)
    return found


def parameters(checkpoint):
    return {name: p.detach().clone() for name, p in trained(load_checkpoint(checkpoint).policy).items()}


def session_of(checkpoint, **changes):
    config = {**SETTINGS, **changes, "checkpoint": {"checkpoint_path": str(checkpoint)}}
    return Session(read_config(config).config)


def angle(one, other):
    """(cosine, ratio of norms)."""
    a, b = (torch.cat([x[name].flatten().double() for name in one]) for x in (one, other))
    return float(a @ b / (a.norm() * b.norm())), float(a.norm() / b.norm())


@pytest.mark.parametrize("name", [*list(RUNS)[:3], *(pytest.param(n, marks=pytest.mark.slow) for n in list(RUNS)[3:])])
def test_the_run_moves_its_parameters_as_predicted(name, bandit, tmp_path, batches):
    uncollapse.train(uncollapse.compose(bandit, (*ONE_STEP, *RUNS[name])), tmp_path / "run")
    before, after = (tmp_path / "run" / "checkpoints" / f"step_{step}" for step in (STEPS - 1, STEPS))
    rollouts, rate = batches[-1]
    session = session_of(before)
    assert session.eta == pytest.approx(rate, rel=1e-6)
    there, then = parameters(before), parameters(after)
    taken = {parameter: (then[parameter] - there[parameter]) / rate for parameter in there}
    sample = Sample([], rollouts, tuple(rollouts.group_ids_P.tolist()), 0.0)
    cosine, size = angle(session.step(sample).direction, taken)
    assert cosine > 0.9999 and size == pytest.approx(1, abs=1e-3)
    # and not if the step is that of Dr. GRPO with none of the run's terms, as it would be of a checkpoint without a run
    plain = {"advantage": "dr_grpo", "entropy_coeff": 0.0, "kl_coef": 0.0, "max_grad_norm": 0.0}
    changes = {"soft_advantage_reweight": False, "zero_task_advantage": False}
    work = {"weighting_mode": "dr_grpo"}
    other = session_of(before, policy_gradient=plain | changes, probe_rework=work).step(sample).direction
    assert angle(other, taken)[0] < 0.9995


@pytest.mark.parametrize("how", [("refresh(2, 1)", LORA), ("refresh(2, 0.5)",)], ids=["an adapter", "a full model"])
def test_the_kl_of_the_predicted_step_is_to_the_reference_that_the_run_has_moved(how, bandit, tmp_path, monkeypatch):
    controller, *model = how
    settings = ("advantage=grpo", "kl.coef=0.5", f"kl.controller={controller}", *model)
    seen, of = [], forecast.Before.of
    monkeypatch.setattr(forecast.Before, "of", lambda update, *rest: seen.append(update))
    uncollapse.train(uncollapse.compose(bandit, (*ONE_STEP, *settings)), tmp_path / "run")
    monkeypatch.setattr(forecast.Before, "of", of)
    update = seen[-1]
    before = session_of(tmp_path / "run" / "checkpoints" / "step_2")
    mask = update.batch.mask
    theirs = update.batch.ref_logprobs[mask]
    policy = before.policy
    own = {name: p.detach().clone() for name, p in policy.named_parameters()}
    torch.testing.assert_close(reference_logprobs(before, update.rollouts)[mask], theirs, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(p, own[name]) for name, p in policy.named_parameters())
    # that of a checkpoint from before the move is another one
    start = session_of(tmp_path / "run" / "checkpoints" / "step_1")
    assert (reference_logprobs(start, update.rollouts)[mask] - theirs).abs().max() > 1e-3


@pytest.fixture(scope="module")
def run(bandit, tmp_path_factory):
    directory = tmp_path_factory.mktemp("next") / "run"
    settings = (
        "collapse=[]", "advantage=grpo", "trainer.grad_clip=0.5", "entropy_coeff=0.02", "kl={coef: 0.1}",
        "filter.select=top_k(3)", "model.lora={rank: 2, dropout: 0.1}", "trainer.steps=1", "validation.every=0",
        "validation.before_train=false", "trainer.warmup_steps=4",
    )  # fmt: skip
    uncollapse.train(uncollapse.compose(bandit, settings), directory)
    return directory


def test_the_step_is_said_with_who_says_it_and_what_it_leaves_out(run):
    session = session_of(run)
    text = "\n".join(step_lines(session.predicted_step()))
    # a warm-up of 4 steps, of which the second comes next
    assert (
        "adamw, learning rate 0.0005 (the run's own, 0.5 of 0.001 by schedule), gradient clipped to the norm 0.5"
        in text
    )
    assert "ppo, advantage grpo, tokens weighted by token-mean" in text
    assert "entropy bonus 0.02; 0.1 times KL low_var_kl in the loss" in text
    assert "the run run after step 1" in text
    # 8 rows in mini-batches of 4
    assert "not in it: the run makes 2 or more optimizer steps of a batch" in text
    assert "the run's filter top_k(value=3) is not applied" in text
    assert "the run drops out 0.1" in text
    over = session_of(run, policy_gradient={"advantage": "rloo", "max_grad_norm": 0.0}, learning_rate=1e-5)
    text = "\n".join(step_lines(over.predicted_step()))
    assert "learning rate 1e-05 (as the configuration says), gradient not clipped" in text
    assert "but for policy_gradient.advantage, policy_gradient.max_grad_norm of the configuration" in text


def test_what_was_used_reads_back_to_the_same_probe(run):
    session = session_of(run)
    used = session.config
    left = [f.name for f in attrs.fields(type(used.policy_gradient)) if getattr(used.policy_gradient, f.name) is None]
    assert left == [] and None not in (used.rollout, used.reward, used.learning_rate, used.batch_config.environment)
    assert None not in (used.generation.temperature, used.generation.max_new_tokens, used.probe_rework.weighting_mode)
    assert used.checkpoint.backbone and used.policy_gradient.max_grad_norm == 0.5
    again = Session(read_config(loads(to_yaml(used))).config)
    assert again.config == used
    one, other = (each.step(each.draw_U()).direction for each in (session, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("shared", [False, True])
def test_a_critic_that_trains_alone_moves_no_policy(shared, bandit, tmp_path):
    critic = f"critic={{policy_after: 5, shared: {str(shared).lower()}}}"
    settings = ("collapse=[]", "advantage=gae", critic, "trainer.steps=1", "validation.every=0")
    uncollapse.train(uncollapse.compose(bandit, (*settings, "validation.before_train=false")), tmp_path / "run")
    if shared:  # the value loss has moved the trunk
        lines = step_lines(session_of(tmp_path / "run").predicted_step())
        assert any("until step 5 the run trains its critic alone" in line for line in lines)
        return
    with pytest.raises(RequestError, match="until step 5 the run trains its critic alone"):
        session_of(tmp_path / "run")


@pytest.mark.parametrize(
    ("gradient", "said"),
    [
        ({"advantage": "gae"}, "needs values, and the checkpoint has no critic"),
        ({"advantage": "otb"}, "needs collision probs, which the probe does not give to it"),
        ({"kl_coef": 0.1, "kl": None}, None),
        ({"kl": "k2", "kl_coef": 0.0}, "an estimator and a coefficient"),
        ({"kl_coef": float("nan")}, "must be a number"),
        ({"entropy_coeff": float("inf")}, "must be finite"),
        ({"max_grad_norm": -1.0}, "must be at least 0"),
    ],
)
def test_steps_that_cannot_be_had_are_refused(run, gradient, said):
    if said is None:  # the run knows the estimator
        assert session_of(run, policy_gradient=gradient).config.policy_gradient.kl.name == "low_var_kl"
        return
    with pytest.raises((ConfigError, Invalid)) as refusal:
        session_of(run, policy_gradient=gradient)
    assert said in str(refusal.value)


def test_an_advantage_estimator_is_told_which_step_comes_next(run):
    session = session_of(run)
    assert session.run.step > 0 and session.run.steps >= session.run.step
    assert credit(session, None) == {"step": session.run.step, "steps": session.run.steps}


def test_the_entropies_of_the_checkpoint_choose_who_trains(run):
    """Below the band only bad tokens do, above it only good ones."""
    for band, kept in (("low=50, high=60, low_end=50, high_end=60", -1), ("low=0, high=0, low_end=0, high_end=0", 1)):
        session = session_of(run, policy_gradient={"advantage": f"entrocraft({band})"})
        advantages = session.step(script.rewarded(session.draw_U("band"))).update.batch.advantages
        assert bool((advantages * kept >= 0).all()) and bool((advantages != 0).any())


# --- one path for Python and the command line -----------------------------------------------------------------------

SMALL = {"batch_config.B_E": 4, "batch_config.B_U": 2, "batch_config.G": 2}


def cli(*words):
    answer = CliRunner().invoke(main, ["probe", *map(str, words)])
    assert answer.exit_code == 0, (answer.output, answer.exception)
    return answer.stdout


def settings(values):
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def test_the_lines_of_the_readme_use_what_the_run_used(run):
    """A template and a checkpoint that is named later: the same probe as on the command line."""
    template = "configs/test_deltaH1.yaml"
    probe = OfflineEntropyProbe.from_config_file(template, SMALL)
    found = probe.run_mixed_probe(str(run))
    session = probe.session(str(run))
    assert found["learning_rate"] == pytest.approx(5e-4)  # of the run, not 2e-6
    assert session.max_tokens == 6 and session.config.batch_config.environment.name == "bandit"
    assert any("learning_rate" in line and "template" in line for line in found["ignored"])
    told = json.loads(cli("run", "--config", template, "--checkpoint", run, "--json", *settings(SMALL)))
    for key in ("deltaH1", "deltaH_true", "learning_rate", "step", "weighting_mode", "ignored"):
        assert told[key] == found[key], key


def test_the_configuration_of_a_run_says_what_was_used_and_finds_the_same(run, tmp_path):
    cli("single", "--checkpoint", run, "--results", tmp_path, "--quiet", *settings(SMALL))
    (file,) = tmp_path.glob("single_run/*/BE004_BU002/config.yaml")
    said = loads(file.read_text())
    assert said["learning_rate"] == pytest.approx(5e-4) and said["batch_config"]["environment"]["name"] == "bandit"
    assert said["generation"]["max_new_tokens"] == 6 and said["rollout"]["max_turns"] == 1
    assert said["policy_gradient"]["advantage"]["name"] == "grpo" and said["policy_gradient"]["max_grad_norm"] == 0.5
    assert said["probe_rework"] | {"weighting_mode": "token-mean", "master_seed": 42} == said["probe_rework"]
    found = json.loads((file.parent / "results.json").read_text())
    again = OfflineEntropyProbe.from_config_file(file).run_mixed_probe()
    assert (again["deltaH1"], again["SE_conditional"]) == (found["deltaH1"], found["SE_conditional"])
    log = (file.parent / "probe_log.txt").read_text()
    for line in step_lines(found["step"]):  # in the text, the log and the results
        assert line in log


def test_every_eta_is_printed_with_its_sample_size_and_low_ones_are_flagged(run, tmp_path):
    etas = {"importance.enabled": "true", "importance.etas": "[1e-4, 50.0]"}
    text = cli("single", "--checkpoint", run, "--results", tmp_path, "--quiet", *settings(SMALL | etas))
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "%" in lines["0.0005"] and "%" in lines["0.0001"] and "too low" not in lines["0.0001"]
    assert "%, too low" in lines["50"]
    assert "at eta 50 " in text
    (file,) = tmp_path.glob("single_run/*/BE004_BU002/results.json")
    assert [point["ESS_too_low"] for point in json.loads(file.read_text())["truth"]] == [False, False, True]


def test_debug_prints_every_estimator_of_every_run(run, tmp_path):
    few = {"batch_config.B_E_values": "[4, 5]", "batch_config.B_U": 2, "batch_config.G": 2}
    text = cli("debug", "--checkpoint", run, "--results", tmp_path, "--quiet", *settings(few))
    for size in (4, 5):
        (file,) = tmp_path.glob(f"debug/*/debug_BE00{size}/results.json")
        variance = json.loads(file.read_text())["variance"]
        (_, part) = text.split(f"debug_BE00{size}, estimators")
        rows = {line.split()[0] for line in part.splitlines() if line.strip()}
        assert len(variance) > 15 and {name.split()[0] for name in variance} <= rows
    assert "forms of the prediction: leave_one_out" in text and "the spread itself is hardly known" in text
