"""The fp32 weights behind a bfloat16 model: in every ZeRO stage that has them, and from one stage to another."""

import sys
from pathlib import Path

import attrs
import pytest
import torch
import uncollapse
from safetensors.torch import load_file
from uncollapse.core.compose.experiment import Trainer
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.estimators.aggregation import TokenMean
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.training import assemble
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.loop import Loop
from uncollapse.plugins.training.step.losses import PolicyObjective
from uncollapse.plugins.training.weights.checkpoint import load_checkpoint

sys.path.insert(0, str(Path(__file__).parent))
from ranks_launch import backend


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_masters_are_fp32_and_gather_updates_too_small_for_bfloat16(models, batch, stage):
    batch = attrs.evolve(batch, weights=TokenMean().weights(batch.mask, 1))
    policy = Policy(models(torch.bfloat16), 1.0)
    start = {name: p.detach().float().clone() for name, p in policy.named_parameters()}
    trainer = Trainer(lr=1e-6, weight_decay=0.0, grad_clip=0.0)
    engine = backend(stage).start(policy, trainer, zero_stage=stage, dtype="bfloat16", ranks=start_ranks())
    for _ in range(3):
        engine.update([batch], PolicyObjective(Ppo()))
    master = engine.optimizer_state()["master"]
    assert master.keys() == start.keys()
    weights = {name: tensor.cpu() for name, tensor in engine.weights()}
    norms = [name for name in start if "norm" in name]  # start at 1, where bfloat16 steps by 2^-8
    assert len(norms) == 5
    for name, fp32 in master.items():
        assert fp32.dtype == torch.float32
        assert weights[name].dtype == torch.bfloat16
        assert torch.equal(weights[name], fp32.to(torch.bfloat16)), name
        # three steps of Adam go at most three learning rates, and most go that far
        moved = (fp32 - start[name]).abs()
        assert float(moved.max()) < 3.1e-6
        assert float((moved > 1e-6).float().mean()) > 0.5, name
    assert all(torch.equal(weights[name].float(), start[name]) for name in norms)


def loop_from(checkpoint, experiment):
    ranks = start_ranks()
    loop = Loop(experiment, assemble.assemble(experiment, ranks, checkpoint), ranks)
    load_checkpoint(loop, checkpoint)
    return loop


def engines(loop):
    return {"policy": loop.parts.policy, "critic": loop.parts.critic}


@pytest.mark.parametrize("shared", [False, True], ids=["separate critic", "shared critic"])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 3), (3, 1)])
def test_a_checkpoint_continues_under_another_zero_stage(bandit, tmp_path, before, after, shared):
    # with settings of its own, ZeRO 2 is not run as ZeRO 1
    own = "trainer.backend={name: deepspeed, config: {zero_optimization: {reduce_bucket_size: 100000}}}"
    common = ["model.dtype=bfloat16", f"critic.shared={str(shared).lower()}", "validation.every=0", own]
    experiment, other = (
        uncollapse.compose(bandit, [*common, "trainer.steps=2", f"trainer.zero_stage={stage}"])
        for stage in (before, after)
    )
    checkpoint = RunDirectory.open(uncollapse.train(experiment, tmp_path / "run").path).latest()
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert {tensor.dtype for tensor in saved["master"].values()} == {torch.float32}
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in saved["master"].values())

    same, moved = loop_from(checkpoint, experiment), loop_from(checkpoint, other)
    assert (same.step, moved.parts.policy.stage) == (2, after)
    for name, engine in engines(same).items():
        ours, theirs = engine.optimizer_state(), engines(moved)[name].optimizer_state()
        assert ours["param_groups"] == theirs["param_groups"]
        assert ours["state"].keys() == theirs["state"].keys() == ours["master"].keys()
        for key, values in ours["state"].items():
            assert int(values["step"]) == int(theirs["state"][key]["step"]) == 4
            assert all(torch.equal(tensor, theirs["state"][key][moment]) for moment, tensor in values.items())
            assert torch.equal(ours["master"][key], theirs["master"][key])
    for name, tensor in saved["master"].items():
        assert torch.equal(same.parts.policy.optimizer_state()["master"][f"model.{name}"], tensor)

    metrics = [loop.train_step() for loop in (same, moved)]
    for key in ("actor/grad_norm", "actor/pg_loss", "critic/vf_loss", "train/reward"):
        assert metrics[0][key] == pytest.approx(metrics[1][key], rel=2e-2, abs=1e-4), key
    for name, engine in engines(same).items():
        ours, theirs = engine.optimizer_state()["master"], engines(moved)[name].optimizer_state()["master"]
        far = max(float((ours[key] - theirs[key]).abs().mean()) for key in ours)
        assert far < 1e-4, name  # of a step of 1e-3: gradients are summed in another order and type


def adam_and_weights(loop):
    engine = loop.parts.policy
    return engine.optimizer_state()["state"], {name: tensor.cpu().clone() for name, tensor in engine.weights()}


def test_a_run_is_resumed_from_one_zero_stage_to_another(bandit, tmp_path, monkeypatch):
    path, step = tmp_path / "run", Loop.train_step

    def staged(stage):
        rest = ("trainer.save_every=1", "trainer.keep=0", "advantage=grpo", f"trainer.zero_stage={stage}")
        return uncollapse.compose(bandit, rest)

    def train(stage, resume, fails_at):
        with monkeypatch.context() as patch:
            patch.setattr(Loop, "train_step", lambda loop: 1 / 0 if loop.step == fails_at else step(loop))
            return uncollapse.train(staged(stage), path, resume=resume)

    for done, stage in enumerate((0, 2, 3)):
        with pytest.raises(ZeroDivisionError):
            train(stage, done > 0, done + 1)
        checkpoint = RunDirectory.open(path).latest()
        assert checkpoint.name == f"step_{done + 1}"
        saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
        weights = load_file(checkpoint / "model" / "model.safetensors")
        for other in (0, 2, 3):
            states, held = adam_and_weights(loop_from(checkpoint, staged(other)))
            assert states.keys() == {f"model.{name}" for name in saved}
            for name, values in saved.items():
                own = states[f"model.{name}"]
                assert int(own["step"]) == int(values["step"]) == 2 * (done + 1)
                assert torch.equal(own["exp_avg"], values["exp_avg"])
                assert torch.equal(own["exp_avg_sq"], values["exp_avg_sq"])
                assert torch.equal(held[f"model.{name}"], weights[name])
    assert train(2, True, None).status == "success"
    run = RunDirectory.open(path)
    assert [record["step"] for record in run.metrics()] == [0, 1, 2, 3, 4]
    assert run.read_config()["trainer"]["zero_stage"] == 2
    assert (path / "log.txt").read_text().count("trainer.zero_stage: ") == 3
