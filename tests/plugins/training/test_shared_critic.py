"""A critic that is a head on the policy's trunk: one model, one pass, one gradient; and runs of it."""

import math
import sys
from pathlib import Path

import attrs
import pytest
import torch
import uncollapse
from safetensors.torch import load_file
from transformers import Qwen2ForCausalLM
from uncollapse.core.components import Scores
from uncollapse.core.compose.experiment import Trainer
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.estimators.aggregation import TokenMean
from uncollapse.plugins.probe.checkpoint.adam_state import read_adam_state
from uncollapse.plugins.probe.checkpoint.load import load_checkpoint as load_probed
from uncollapse.plugins.training import assemble
from uncollapse.plugins.training.networks.models import Critic, Policy
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.loop import Loop
from uncollapse.plugins.training.step.losses import CriticObjective

sys.path.insert(0, str(Path(__file__).parent))
import bandit_player
import joint_script
from joint_script import OBJECTIVE, actor_critic
from ranks_launch import backend, launch

HEAD = ("value_head.weight", "value_head.bias")


def weighted(batch):
    return attrs.evolve(batch, weights=TokenMean().weights(batch.mask, 1))


def test_scores_are_those_of_the_policy_and_of_a_critic_with_the_same_trunk(models, batch):
    module = actor_critic(models())
    critic = Critic(models().get_decoder())
    critic.head.load_state_dict(module.value_head.state_dict())
    scores = module(batch)
    assert torch.equal(scores["logprobs"], Policy(models(), 1.0)(batch)["logprobs"])
    assert torch.allclose(scores["values"], critic(batch)["values"], atol=1e-6)
    assert float(scores["values"].abs().max()) > 0.1
    assert not scores["values"][~batch.mask].any()


def test_values_of_a_bfloat16_trunk_are_computed_in_fp32(models, batch):
    module = actor_critic(models(torch.bfloat16))
    values = module(batch)["values"]
    head = module.value_head
    exact = module.hidden_states(batch).double() @ head.weight[0].double() + head.bias.double()
    assert values.dtype == torch.float32
    assert torch.allclose(values[batch.mask].double(), exact, atol=1e-5)


def gradients(module, loss):
    module.zero_grad()
    loss.backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def test_the_joint_loss_is_the_policys_plus_coef_times_the_critics(models, batch):
    batch, module = weighted(batch), actor_critic(models())

    def gradient(objective):
        return gradients(module, objective(Scores(**module(batch, entropy="gradient")), batch)[0])

    joint, policy, critic = (gradient(x) for x in (OBJECTIVE, OBJECTIVE.policy, CriticObjective(0.5)))
    for name, of_joint in joint.items():
        assert torch.allclose(of_joint, policy[name] + 0.3 * critic[name], atol=1e-6), name
    assert not any(policy[name].any() for name in HEAD)
    assert all(critic[name].any() for name in joint)
    alone = gradient(attrs.evolve(OBJECTIVE, policy=None))
    assert all(torch.allclose(alone[name], 0.3 * critic[name], atol=1e-7) for name in alone)


def test_a_detached_head_leaves_the_trunk_to_the_policy(models, batch):
    batch, module = weighted(batch), actor_critic(models(), detach=True)
    scores = Scores(**module(batch, entropy="gradient"))
    joint = gradients(module, OBJECTIVE(scores, batch)[0])
    policy = gradients(module, OBJECTIVE.policy(Scores(**module(batch, entropy="gradient")), batch)[0])
    assert all(torch.allclose(joint[name], policy[name], atol=1e-7) for name in joint if name not in HEAD)
    assert all(joint[name].any() for name in HEAD)


@pytest.fixture(scope="module")
def setting(tmp_path_factory, models, batches):
    directory = tmp_path_factory.mktemp("joint")
    models().save_pretrained(directory / "model")
    torch.save(batches().tensors(), directory / "batch.pt")
    batch, module = weighted(batches()), actor_critic(models())
    loss, metrics = OBJECTIVE(Scores(**module(batch, entropy="gradient")), batch)
    return directory, gradients(module, loss), {name: float(a / b) for name, (a, b) in metrics.items()}


def check(found, setting):
    _, expected, metrics = setting
    norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in expected.values()))
    assert found["metrics"]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert found["moments"].keys() == expected.keys() >= set(HEAD)
    for name, gradient in expected.items():
        # the first moment after one AdamW step is (1 - beta_1) times the raw gradient
        assert torch.allclose(found["moments"][name] / 0.1, gradient, rtol=1e-4, atol=1e-6), name
        # AdamW's first step is the learning rate, where the gradient is not tiny
        steps = found["moved"][name][gradient.abs() > 1e-4].abs()
        assert torch.allclose(steps, torch.tensor(1e-2 if name in HEAD else 1e-3), rtol=2e-2), name
    assert found["metrics"]["critic/vf_loss"] == pytest.approx(metrics["critic/vf_loss"], rel=1e-4)
    assert found["metrics"]["pg_loss"] == pytest.approx(metrics["pg_loss"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [3, 7])
def test_the_joint_gradient_is_that_of_the_whole_batch_in_every_zero_stage(setting, stage, size):
    check(joint_script.step(str(setting[0]), stage, size), setting)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "size"), [(0, 7), (1, 2), (2, 3), (3, 2)])
def test_the_joint_gradient_does_not_depend_on_the_number_of_ranks(setting, stage, size):
    launch(joint_script.__file__, setting[0], stage, size)
    check(torch.load(setting[0] / "out.pt", weights_only=True), setting)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_detached_critic_alone_moves_nothing_but_the_head(setting, stage):
    found = joint_script.step(str(setting[0]), stage, 3, detach=True, policy=False)
    assert {name for name, change in found["moved"].items() if change.any()} == set(HEAD)


def started(setting, stage, before=None):
    """An engine that trains a detached critic and decays weights, from the start or from a saved state of it."""
    module = actor_critic(Qwen2ForCausalLM.from_pretrained(setting[0] / "model", dtype=torch.float32), detach=True)
    if before is not None:
        module.load_state_dict(before[0], strict=False)  # tied weights have one name
    settings = Trainer(lr=1e-3, weight_decay=0.1)
    engine = backend(stage).start(
        module, settings, zero_stage=stage, dtype="float32", ranks=start_ranks(), own_lr={joint_script.HEAD: 1e-2}
    )
    if before is not None:
        engine.load_optimizer_state(before[1])
    return engine


def saved(engine):
    return {name: tensor.cpu().clone() for name, tensor in engine.weights()}, engine.optimizer_state()


ALONE = attrs.evolve(OBJECTIVE, policy=None)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_takes_no_step_is_not_decayed_either_and_begins_later_as_if_new(setting, batch, stage):
    batch = weighted(batch)
    engine = started(setting, stage)
    start = saved(engine)[0]
    for _ in range(3):
        engine.update([batch], ALONE, only=joint_script.HEAD)
    warm, state = saved(engine)
    assert {name for name in start if not torch.equal(warm[name], start[name])} == set(HEAD)
    steps = {name: int(values["step"]) for name, values in state["state"].items() if values["exp_avg"].any()}
    assert steps == dict.fromkeys(HEAD, 3)
    assert {int(values["step"]) for name, values in state["state"].items() if name not in HEAD} <= {0}

    # the first step of the policy is AdamW's first: decay, then the learning rate in the direction of the gradient
    engine.update([batch], OBJECTIVE, entropy="gradient")
    after, state = saved(engine)
    assert {name: int(values["step"]) for name, values in state["state"].items() if name in HEAD} == dict.fromkeys(
        HEAD, 4
    )
    for name in start.keys() - set(HEAD):
        moments = state["state"][name]
        assert int(moments["step"]) == 1
        gradient = moments["exp_avg"] / 0.1
        expected = warm[name] * (1 - 1e-3 * 0.1) - 1e-3 * gradient / (gradient.abs() + 1e-8)
        clear = gradient.abs() > 1e-6
        assert clear.any()
        assert torch.allclose(after[name][clear], expected[clear], rtol=0, atol=2e-6), name


@pytest.mark.parametrize(("stage", "other"), [(0, 2), (2, 0), (2, 3), (3, 1)])
def test_counts_of_steps_of_policy_and_critic_survive_a_checkpoint(setting, batch, stage, other):
    batch = weighted(batch)
    engine = started(setting, stage)
    for _ in range(2):
        engine.update([batch], ALONE, only=joint_script.HEAD)
    resumed = started(setting, other, before=saved(engine))
    for each in (engine, resumed):
        each.update([batch], OBJECTIVE, entropy="gradient")
    ours, theirs = saved(engine), saved(resumed)
    for name, values in ours[1]["state"].items():
        others = theirs[1]["state"][name]
        assert int(values["step"]) == int(others["step"]) == (3 if name in HEAD else 1)
        assert torch.allclose(values["exp_avg"], others["exp_avg"], rtol=1e-3, atol=1e-7), name
        # Adam's first step is the sign of the gradient, which rounding decides where that is tiny
        clear = values["exp_avg"].abs() > 1e-6
        assert torch.allclose(ours[0][name][clear], theirs[0][name][clear], rtol=0, atol=1e-5), name


def test_weight_decay_moves_what_takes_a_step_without_a_gradient(setting, batch):
    """Why it must not take one: ZeRO makes gradients of zeros of none at all."""
    engine = started(setting, 2)
    start = saved(engine)[0]
    engine.update([weighted(batch)], ALONE)
    name = "model.model.embed_tokens.weight"
    assert torch.allclose(saved(engine)[0][name], start[name] * (1 - 1e-4), rtol=1e-6)


# --- runs -----------------------------------------------------------------------------------------------------------

SHARED = ("critic.shared=true", "critic.lr=1e-2")


def compose(base, *overrides):
    return uncollapse.compose(base, [*SHARED, *overrides])


def loop_of(experiment):
    ranks = start_ranks()
    return Loop(experiment, assemble.assemble(experiment, ranks), ranks)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_there_is_one_trunk(bandit, monkeypatch):
    monkeypatch.setattr(assemble, "load_critic", None)
    parts = loop_of(compose(bandit)).parts
    own = loop_of(uncollapse.compose(bandit, ["advantage=grpo"])).parts.policy.module
    assert parts.critic is parts.policy
    count = sum(p.numel() for p in parts.policy.module.parameters())
    assert count == sum(p.numel() for p in own.parameters()) + own.language_model.config.hidden_size + 1


def test_values_come_from_the_pass_of_the_old_log_probs(bandit, monkeypatch):
    loop = loop_of(compose(bandit, "trainer.mini_batch=8"))
    passes = []
    score = type(loop.parts.policy).score
    monkeypatch.setattr(type(loop.parts.policy), "score", lambda *a, **o: passes.append(a) or score(*a, **o))
    metrics = loop.train_step()
    assert len(passes) == 1  # eight rows in one pass, though a single optimizer step needs no old log-probs
    assert "timing_s/update_critic" not in loop.timings()
    assert metrics["critic/vf_loss"] > 0
    assert metrics["actor/grad_norm"] > 0
    assert metrics["rollout/logprob_gap"] < 1e-4


@pytest.mark.parametrize("stage", [0, 2])
@pytest.mark.parametrize("detach", ["true", "false"])
def test_the_critic_alone_comes_first(bandit, detach, stage):
    changes = (f"critic.detach={detach}", "trainer.weight_decay=0.1", f"trainer.zero_stage={stage}")
    loop = loop_of(compose(bandit, "critic.policy_after=1", *changes))
    start = {name: tensor.clone() for name, tensor in loop.parts.policy.weights()}
    first = loop.train_step()
    assert "actor/pg_loss" not in first
    assert first["critic/vf_loss"] > 0
    moved = {name for name, tensor in loop.parts.policy.weights() if not torch.equal(tensor, start[name])}
    assert set(HEAD) <= moved
    assert (moved == set(HEAD)) == (detach == "true")
    assert "actor/pg_loss" in loop.train_step()


RESUMED = {
    "full": ("trainer.lr_schedule=cosine", "kl={coef: 0.01, placement: reward, controller: adaptive}"),
    "ZeRO 2": ("trainer.zero_stage=2", "trainer.epochs=2", "critic.policy_after=1"),
    "ZeRO 3": ("trainer.zero_stage=3", "critic.detach=true"),
    "LoRA with its dropout": ("model.lora={rank: 4, dropout: 0.1}", "kl.coef=0.01"),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_equals_the_uninterrupted_one_bitwise(bandit, tmp_path, name, monkeypatch):
    experiment = compose(bandit, "trainer.save_every=2", *RESUMED[name])
    whole = uncollapse.train(experiment, tmp_path / "whole")
    step = Loop.train_step
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", lambda loop: 1 / 0 if loop.step == 2 else step(loop))
        with pytest.raises(ZeroDivisionError):
            uncollapse.train(experiment, tmp_path / "parts")
    resumed = uncollapse.train(experiment, tmp_path / "parts", resume=True)
    assert whole.status == resumed.status == "success"
    records = [RunDirectory.open(tmp_path / part).metrics() for part in ("whole", "parts")]
    untimed = [[{k: v for k, v in r.items() if not k.startswith("timing_s/")} for r in run] for run in records]
    assert untimed[0] == untimed[1]
    last = [tmp_path / part / "checkpoints" / "step_4" for part in ("whole", "parts")]
    model = "adapter_model.safetensors" if "LoRA" in name else "model.safetensors"
    for file in (f"model/{model}", "critic/value_head.safetensors"):
        assert same(*(load_file(path / file) for path in last))
    head = load_file(last[0] / "critic" / "value_head.safetensors")
    assert head.keys() == {"weight", "bias"}
    assert float(head["weight"].abs().max()) > 1e-3
    for file in ("optimizer.pt", "critic/optimizer.pt"):
        states = [torch.load(path / file, weights_only=True)["state"] for path in last]
        assert states[0].keys() == states[1].keys()
        assert all(same(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("overrides", [(), ("model.lora={rank: 4}",)], ids=["full", "LoRA"])
def test_a_checkpoint_is_a_plain_model_that_the_probe_reads(bandit, tmp_path, overrides):
    from transformers import AutoModelForCausalLM

    outcome = uncollapse.train(compose(bandit, "trainer.steps=1", *overrides), tmp_path / "run")
    saved = outcome.path / "checkpoints" / "step_1"
    AutoModelForCausalLM.from_pretrained(saved / "model")
    loaded = load_probed(outcome.path)
    state = read_adam_state(loaded.optimizer_path, loaded.policy)
    assert state.coverage.fraction == 1
    assert state.coverage.saved == state.coverage.trainable
    assert state.base_lr == 1e-3
    head = torch.load(saved / "critic" / "optimizer.pt", weights_only=True)
    assert head["state"].keys() == set(HEAD)
    assert head["param_groups"][0]["lr"] == 1e-2
    names = [group["params"] for group in torch.load(saved / "optimizer.pt", weights_only=True)["param_groups"]]
    assert len(names) == 1
    assert not set(names[0]) & set(HEAD)


@pytest.mark.slow
@pytest.mark.parametrize("detach", ["false", "true"])
def test_gae_with_a_shared_critic_learns_the_bandit(tmp_path_factory, tmp_path, detach):
    directory = tmp_path_factory.mktemp("player")
    bandit_player.build(directory)
    experiment = uncollapse.compose(
        {
            "model": {"path": str(directory), "dtype": "float32"},
            "environment": "bandit(probability=0.9)",
            "rollout": bandit_player.ROLLOUT,
            "advantage": "gae",
            "critic": {"shared": True, "lr": 1e-2, "detach": detach == "true"},
            "validation": {"groups": 64, "every": 20, "temperature": 1.0},
            "trainer": {"steps": 20, "micro_batch": 32, "score_batch": 32, "zero_stage": 0, "lr": 1e-3},
            "collapse": [],
            "trackers": ["jsonl"],
        }
    )
    first, *_, last = RunDirectory.open(uncollapse.train(experiment, tmp_path / "run").path).metrics()
    assert 0.3 < first["validation/success"] < 0.7
    assert last["validation/success"] > 0.9
    # the risky arm pays 0.9 on average: so are the values of a policy that chooses it
    assert 0.5 < last["critic/values"] < 1.1


@pytest.mark.parametrize("filtered", [False, True])
def test_the_entropy_forecast_sees_the_joint_update(bandit, tmp_path, filtered):
    changes = ["trainer.steps=2", "trainer.mini_batch=8", "entropy_coeff=0.05", "trainer.lr=1e-4", "advantage=gae"]
    changes += ["filter.select=top_k(2)"] * filtered
    experiment = compose(bandit, "collapse=[entropy_forecast(every=1)]", *changes)
    records = RunDirectory.open(uncollapse.train(experiment, tmp_path / "run").path).metrics()
    assert records[1]["forecast/predicted"] != 0
    assert math.isfinite(records[2]["forecast/realised"])
