"""The raw gradient of an optimizer step, by ZeRO stage, partition and number of ranks, against plain autograd."""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from uncollapse.core.components import Scores
from uncollapse.core.errors import RunError
from uncollapse.core.experiment import Trainer
from uncollapse.estimators.kl.variants import K3
from uncollapse.plugins.training.aggregation import token_weights
from uncollapse.plugins.training.deepspeed_backend import DeepSpeed
from uncollapse.plugins.training.losses import PolicyObjective
from uncollapse.plugins.training.models import Policy
from uncollapse.plugins.training.policy_losses import Ppo
from uncollapse.plugins.training.ranks import start_ranks

sys.path.insert(0, str(Path(__file__).parent))
import ranks_script


@pytest.fixture(scope="module")
def setting(tmp_path_factory, models, batches):
    directory = tmp_path_factory.mktemp("ranks")
    models().save_pretrained(directory / "model")
    batch = batches()
    torch.save(batch.tensors(), directory / "batch.pt")
    return directory, batch, *expected(models(), batch)


def expected(model, batch):
    """Gradient of the whole batch at once, without DeepSpeed."""
    policy = Policy(model, 1.0)
    weighted = attrs.evolve(batch, weights=token_weights(batch.mask))
    loss, metrics = PolicyObjective(Ppo(), 0.03, K3(), 0.1)(Scores(**policy(weighted, entropy="gradient")), weighted)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in policy.named_parameters()}
    return gradients, {name: float(total / count) for name, (total, count) in metrics.items()}


def run_ranks(directory, stage, size, ranks=2):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, ranks_script.__file__, str(directory), str(stage), str(size)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()[-3000:]
    return torch.load(directory / "out.pt", weights_only=True)


def check(found, setting):
    _, _, gradients, metrics = setting
    norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
    assert found["metrics"]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    for name, gradient in gradients.items():
        # the first moment after one AdamW step is (1 - beta_1) times the raw gradient
        assert torch.allclose(found["moments"][name] / 0.1, gradient, rtol=1e-4, atol=1e-6), name
    for name, value in metrics.items():
        assert found["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [3, 7])
def test_gradient_equals_autograd_in_every_zero_stage(setting, stage, size):
    check(ranks_script.step(str(setting[0]), stage, size), setting)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "size"), [(0, 2), (1, 7), (2, 2), (3, 2)])
def test_gradient_does_not_depend_on_the_number_of_ranks(setting, stage, size):
    two, one = run_ranks(setting[0], stage, size), ranks_script.step(str(setting[0]), stage, size)
    check(two, setting)
    assert torch.allclose(two["logprobs"], one["logprobs"], atol=1e-6)
    for name, weight in one["weights"].items():
        assert torch.allclose(two["weights"][name], weight, atol=2e-3), name  # AdamW's first step is at most lr


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_optimizer_state_is_the_same_on_any_number_of_ranks(setting, models, stage, ranks):
    """What is loaded comes back bitwise, so a checkpoint of n ranks goes on with m."""
    generator = torch.Generator().manual_seed(0)
    names = {f"model.{name}": value.shape for name, value in models().named_parameters()}

    def noise():
        return {name: torch.rand(shape, generator=generator) for name, shape in names.items()}

    first, second, master = noise(), noise(), noise()
    state = {name: {"step": torch.tensor(7.0), "exp_avg": first[name], "exp_avg_sq": second[name]} for name in names}
    saved = {"state": state, "param_groups": [{"lr": 1e-6, "params": list(names)}], "master": master}
    torch.save(saved, setting[0] / "state.pt")
    found = run_ranks(setting[0], stage, "give back", ranks)
    assert found["state"].keys() == state.keys() == found["master"].keys()
    for name, values in state.items():
        assert all(torch.equal(found["state"][name][key], value) for key, value in values.items()), name
        assert torch.equal(found["master"][name], master[name]), name


@pytest.mark.parametrize(("dtype", "stage"), [("float32", 0), ("float32", 2), ("float32", 3), ("bfloat16", 2)])
def test_a_restored_optimizer_continues_bitwise(models, batches, dtype, stage):
    batch = attrs.evolve(batches(), weights=token_weights(batches().mask))
    parts = [batch.take([0, 1, 2]), batch.take([3, 4]), batch.take([5, 6])]
    objective, ranks = PolicyObjective(Ppo(), 0.03), start_ranks()

    def start(policy):
        settings = Trainer(lr=1e-2, grad_clip=0.5)
        return DeepSpeed().start(policy, settings, zero_stage=stage, dtype=dtype, ranks=ranks)

    first = start(Policy(models(getattr(torch, dtype)), 1.0))
    for _ in range(2):
        first.update(parts, objective, entropy="gradient")
    saved, weights = first.optimizer_state(), {name: tensor.clone() for name, tensor in first.weights()}
    policy = Policy(models(getattr(torch, dtype), seed=5), 1.0)
    policy.load_state_dict(weights, strict=False)
    second = start(policy)
    second.load_optimizer_state(saved)
    for scale in (1.0, 0.3):
        metrics = [engine.update(parts, objective, scale, entropy="gradient") for engine in (first, second)]
        assert metrics[0] == metrics[1]
    for (name, ours), (_, theirs) in zip(first.weights(), second.weights(), strict=True):
        assert torch.equal(ours, theirs), name


def test_an_optimizer_state_of_another_model_is_refused(models):
    ranks = start_ranks()
    engine = DeepSpeed().start(Policy(models(), 1.0), Trainer(), zero_stage=0, dtype="float32", ranks=ranks)
    saved = engine.optimizer_state()
    saved["param_groups"][0]["params"].append("model.extra")
    with pytest.raises(RunError, match=r"disagree on 1 parameters, e\.g\. model\.extra"):
        engine.load_optimizer_state(saved)


def test_a_gradient_that_is_not_finite_is_an_error(models, batches):
    batch = attrs.evolve(batches(), weights=token_weights(batches().mask))
    batch = attrs.evolve(batch, advantages=batch.advantages * float("inf"))
    engine = DeepSpeed().start(Policy(models(), 1.0), Trainer(), zero_stage=0, dtype="float32", ranks=start_ranks())
    with pytest.raises(RunError, match="not finite"):
        engine.update([batch], PolicyObjective(Ppo()))
