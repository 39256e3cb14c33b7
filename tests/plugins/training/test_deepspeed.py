"""The raw gradient of an optimizer step, by ZeRO stage, partition and number of ranks, against plain autograd."""

import gc
import math
import sys
import weakref
from pathlib import Path

import attrs
import pytest
import torch
from uncollapse.core.components import Scores
from uncollapse.core.compose.config import problems
from uncollapse.core.compose.experiment import Trainer
from uncollapse.core.errors import RequestError, RunError
from uncollapse.estimators.aggregation import TokenMean
from uncollapse.estimators.kl.variants import K3
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.training.deepspeed_backend import DeepSpeed
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.losses import PolicyObjective
from uncollapse.plugins.training.zero import stage_in_effect

sys.path.insert(0, str(Path(__file__).parent))
import ranks_script
from ranks_launch import backend, launch


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
    weighted = attrs.evolve(batch, weights=TokenMean().weights(batch.mask, 1))
    loss, metrics = PolicyObjective(Ppo(), 0.03, K3(), 0.1)(Scores(**policy(weighted, entropy="gradient")), weighted)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in policy.named_parameters()}
    return gradients, {name: float(total / count) for name, (total, count) in metrics.items()}


def run_ranks(directory, stage, size, budget=0, offload="none", ranks=2):
    launch(ranks_script.__file__, directory, stage, size, budget, offload, ranks=ranks)
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


@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("budget", [19, 60])
def test_gradient_of_packed_rows(setting, stage, budget):
    packed = ranks_script.step(str(setting[0]), stage, 7, budget)
    check(packed, setting)
    padded = ranks_script.step(str(setting[0]), stage, 7)
    assert torch.allclose(packed["logprobs"], padded["logprobs"], atol=2e-6)


@pytest.mark.parametrize(("stage", "offload"), [(1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "all")])
def test_gradient_and_weights_with_offload(setting, stage, offload):
    found = ranks_script.step(str(setting[0]), stage, 3, 0, offload)
    check(found, setting)
    for name, weight in ranks_script.step(str(setting[0]), stage, 3)["weights"].items():
        assert torch.allclose(found["weights"][name], weight, atol=1e-5), name


@pytest.mark.parametrize(
    ("asked", "ranks", "offload", "own", "run"),
    [
        (2, 1, "none", None, 1),
        (2, 2, "none", None, 2),
        (2, 1, "optimizer", None, 2),
        (2, 1, "none", {"overlap_comm": True}, 2),
        (0, 1, "none", None, 0),
        (3, 1, "none", None, 3),
    ],
)
def test_one_rank_has_no_gradients_to_partition(asked, ranks, offload, own, run):
    assert stage_in_effect(asked, ranks, offload, own) == run


@pytest.mark.parametrize("config", [{}, {"zero_optimization": {"overlap_comm": True}}])
def test_zero_2_on_one_rank_computes_the_same_as_zero_1(models, batches, config):
    found = []
    for stage in (1, 2):
        policy = Policy(models(), 1.0)
        settings = config if stage == 2 else {}
        engine = DeepSpeed(settings).start(
            policy, Trainer(lr=1e-3), zero_stage=stage, dtype="float32", ranks=start_ranks()
        )
        assert engine.stage == (2 if settings else 1)
        batch = attrs.evolve(batches(), weights=TokenMean().weights(batches().mask, 1))
        for _ in range(3):
            engine.update([batch.take([row]) for row in range(len(batch))], PolicyObjective(Ppo()), entropy="value")
        found.append({name: tensor.clone() for name, tensor in engine.weights()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_what_deepspeed_refuses_is_a_wrong_request(models):
    backend = DeepSpeed({"zero_optimization": {"reduce_bucket_size": "abc"}})
    with pytest.raises(RequestError, match="DeepSpeed refuses reduce_bucket_size: ") as found:
        backend.start(Policy(models(), 1.0), Trainer(), zero_stage=1, dtype="float32", ranks=start_ranks())
    assert found.value.where == "trainer.backend.config"


@pytest.mark.parametrize(("stage", "frozen", "together"), [(2, False, 0), (3, False, 2), (3, True, 0)])
def test_zero_3_gathers_a_layer_at_once_unless_weights_are_frozen(models, stage, frozen, together):
    from deepspeed.utils import get_z3_leaf_modules

    policy = Policy(models(), 1.0)
    next(policy.parameters()).requires_grad_(not frozen)
    engine = DeepSpeed().start(policy, Trainer(), zero_stage=stage, dtype="float32", ranks=start_ranks())
    leaves = get_z3_leaf_modules(engine.module)
    assert leaves == (list(policy.language_model.model.layers) if together else [])
    assert len(leaves) == together
    engine.close()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_closed_engine_holds_nothing(models, batch, stage):
    """Else a second run of the same process would find the first one's weights and optimizer in memory."""
    batch = attrs.evolve(batch, weights=TokenMean().weights(batch.mask, 1))
    config = {"zero_optimization": {"reduce_bucket_size": 1000}}
    engine = DeepSpeed(config).start(
        Policy(models(), 1.0), Trainer(), zero_stage=stage, dtype="float32", ranks=start_ranks()
    )
    engine.update([batch], PolicyObjective(Ppo()))
    engine.score(batch)
    held = [weakref.ref(each) for each in (engine.module, engine.adamw, engine.engine, *engine.module.parameters())]
    engine.close()
    del engine
    gc.collect()
    assert not [each() for each in held if each() is not None]


def test_offload_is_zeros_own(models, monkeypatch):
    import deepspeed

    asked = []
    real = deepspeed.initialize
    monkeypatch.setattr(deepspeed, "initialize", lambda **given: asked.append(given["config"]) or real(**given))
    config = {
        "zero_optimization": {"reduce_bucket_size": 1000, "offload_optimizer": {"device": "cpu", "pin_memory": False}}
    }
    for offload in ("none", "optimizer", "all"):
        started = DeepSpeed().start(
            Policy(models(), 1.0), Trainer(), zero_stage=3, dtype="float32", ranks=start_ranks(), offload=offload
        )
        assert started.adamw.defaults["fused"] is (True if offload != "none" or torch.cuda.is_available() else None)
    DeepSpeed(config).start(
        Policy(models(), 1.0), Trainer(), zero_stage=3, dtype="float32", ranks=start_ranks(), offload="all"
    )
    cpu = {"device": "cpu"}
    assert [settings["zero_optimization"] for settings in asked] == [
        {"stage": 3},
        {"stage": 3, "offload_optimizer": cpu},
        {"stage": 3, "offload_optimizer": cpu, "offload_param": cpu},
        {"stage": 3, "offload_param": cpu, **config["zero_optimization"]},
    ]


@pytest.mark.parametrize(
    ("offload", "stage", "reason"),
    [
        ("optimizer", 0, "trainer.offload optimizer needs trainer.zero_stage 1 or more"),
        ("all", 2, "trainer.offload all needs trainer.zero_stage 3 or more"),
        ("optimizer", 1, None),
        ("all", 3, None),
    ],
)
def test_offload_needs_what_zero_shards(bandit, offload, stage, reason):
    found = problems(bandit, [f"trainer.offload={offload}", f"trainer.zero_stage={stage}"])
    assert [problem.reason for problem in found] == ([f"deepspeed: {reason}"] if reason else [])


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (
            "{zero_optimization: {stage: 3}}",
            "zero_optimization.stage, which follows from trainer.zero_stage; set that instead",
        ),
        ("{bf16: {enabled: true}}", "bf16, which follows from model.dtype; set that instead"),
        ("{gradient_clipping: 1.0}", "gradient_clipping, which follows from trainer.grad_clip; set that instead"),
        ("{zero_optimization: null}", "zero_optimization to None, which is no section"),
    ],
)
def test_settings_that_follow_from_the_experiment_or_are_none(bandit, config, what):
    found = problems(bandit, [f"trainer.backend={{name: deepspeed, config: {config}}}"])
    assert [problem.reason for problem in found] == [f"deepspeed: config sets {what}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "size", "budget", "offload"),
    [
        (0, 2, 0, "none"),
        (1, 7, 0, "none"),
        (2, 2, 0, "none"),
        (3, 2, 0, "none"),
        (2, 2, 25, "optimizer"),
        (3, 2, 25, "all"),
    ],
)
def test_gradient_does_not_depend_on_the_number_of_ranks(setting, stage, size, budget, offload):
    two = run_ranks(setting[0], stage, size, budget, offload)
    one = ranks_script.step(str(setting[0]), stage, size)
    check(two, setting)
    assert torch.allclose(two["logprobs"], one["logprobs"], atol=1e-6)
    for name, weight in one["weights"].items():
        assert torch.allclose(two["weights"][name], weight, atol=2e-3), name  # AdamW's first step is at most lr


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "ranks"), [(2, 1), (3, 1), (2, 2), (3, 2), (2, 3), (3, 3)])
def test_an_optimizer_state_is_the_same_on_any_number_of_ranks(setting, models, stage, ranks):
    """What is loaded comes back bitwise, so a checkpoint of n ranks goes on with m; three cut no tensor evenly."""
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


@pytest.mark.parametrize(
    ("dtype", "stage", "offload"),
    [
        ("float32", 0, "none"),
        ("float32", 2, "none"),
        ("float32", 3, "none"),
        ("bfloat16", 2, "none"),
        ("float32", 1, "optimizer"),
        ("bfloat16", 2, "optimizer"),
        ("float32", 3, "all"),
    ],
)
def test_a_restored_optimizer_continues_bitwise(models, batches, dtype, stage, offload):
    batch = attrs.evolve(batches(), weights=TokenMean().weights(batches().mask, 1))
    parts = [batch.take([0, 1, 2]), batch.take([3, 4]), batch.take([5, 6])]
    objective, ranks = PolicyObjective(Ppo(), 0.03), start_ranks()

    def start(policy):
        settings = Trainer(lr=1e-2, grad_clip=0.5)
        return backend(stage).start(policy, settings, zero_stage=stage, dtype=dtype, ranks=ranks, offload=offload)

    first = start(Policy(models(getattr(torch, dtype)), 1.0))
    for _ in range(2):
        first.update(parts, objective, entropy="gradient")
    saved, weights = first.optimizer_state(), {name: tensor.clone() for name, tensor in first.weights()}
    live = first.live_optimizer_state()
    assert live.keys() == saved.keys()
    assert live["param_groups"] == saved["param_groups"]
    for part in ("state", "master"):
        torch.testing.assert_close(live[part], saved[part], rtol=0, atol=0)
    policy = Policy(models(getattr(torch, dtype), seed=5), 1.0)
    policy.load_state_dict(weights, strict=False)
    second = start(policy)
    second.load_optimizer_state(saved)
    for scale in (1.0, 0.3):
        metrics = [engine.update(parts, objective, scale, entropy="gradient") for engine in (first, second)]
        assert metrics[0] == metrics[1]
    for (name, ours), (_, theirs) in zip(first.weights(), second.weights(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize(("saved_with", "loaded_with"), [("none", "optimizer"), ("optimizer", "none")])
def test_a_checkpoint_loads_under_another_offload(models, batches, saved_with, loaded_with):
    batch = attrs.evolve(batches(), weights=TokenMean().weights(batches().mask, 1))
    objective, ranks = PolicyObjective(Ppo(), 0.03), start_ranks()

    def start(offload, weights=None):
        policy = Policy(models(), 1.0)
        policy.load_state_dict(weights or {}, strict=False)
        return DeepSpeed().start(policy, Trainer(lr=1e-2), zero_stage=2, dtype="float32", ranks=ranks, offload=offload)

    first = start(saved_with)
    first.update([batch], objective, entropy="gradient")
    second = start(loaded_with, {name: tensor.clone() for name, tensor in first.weights()})
    second.load_optimizer_state(first.optimizer_state())
    ours, theirs = (engine.update([batch], objective, entropy="gradient") for engine in (first, second))
    assert ours == pytest.approx(theirs, rel=1e-5)
    for (name, one), (_, other) in zip(first.weights(), second.weights(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name


def test_an_optimizer_state_of_another_model_is_refused(models):
    ranks = start_ranks()
    engine = DeepSpeed().start(Policy(models(), 1.0), Trainer(), zero_stage=0, dtype="float32", ranks=ranks)
    saved = engine.optimizer_state()
    saved["param_groups"][0]["params"].append("model.extra")
    with pytest.raises(RunError, match=r"disagree on 1 parameters, e\.g\. model\.extra"):
        engine.load_optimizer_state(saved)


def test_a_gradient_that_is_not_finite_is_an_error(models, batches):
    batch = attrs.evolve(batches(), weights=TokenMean().weights(batches().mask, 1))
    batch = attrs.evolve(batch, advantages=batch.advantages * float("inf"))
    engine = DeepSpeed().start(Policy(models(), 1.0), Trainer(), zero_stage=0, dtype="float32", ranks=start_ranks())
    with pytest.raises(RunError, match="not finite"):
        engine.update([batch], PolicyObjective(Ppo()))
