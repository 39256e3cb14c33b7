"""What rollout engines are sent, against what Hugging Face and peft themselves save, load and merge."""

import json
import sys
from pathlib import Path

import pytest
import torch
import uncollapse
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from uncollapse.core.compose.experiment import Lora, Model
from uncollapse.core.errors import RunError
from uncollapse.plugins.rollout.engine_hf import HfSession
from uncollapse.plugins.rollout.engine_vllm.pack_weights import write_adapter
from uncollapse.plugins.rollout.fingerprint import fingerprint, mismatches
from uncollapse.plugins.training import assemble
from uncollapse.plugins.training.networks.models import Policy, load_policy
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.loop import Loop
from uncollapse.plugins.training.weights.export_weights import adapter_weights, full_weights

sys.path.insert(0, str(Path(__file__).parent))
import export_script
from export_script import export
from ranks_launch import launch
from test_shared_critic import actor_critic


class Whole:
    """An engine that shards nothing."""

    stage = 0


@pytest.fixture(scope="module")
def directory(tmp_path_factory, models, batches):
    path = tmp_path_factory.mktemp("export")
    models().save_pretrained(path / "model")
    torch.save(batches().tensors(), path / "batch.pt")
    return path


def plain(directory, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(directory / "model", dtype=dtype)


def logprobs_with(directory, weights, batch):
    """What a model of the plain architecture computes with these weights, every one of them loaded by name."""
    model = plain(directory)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    model.load_state_dict(weights, strict=True)
    return Policy(model, 1.0)(batch)["logprobs"]


def adapted(directory, dtype="float32", **changes):
    """A policy whose adapter is not zero, as peft makes one with these settings."""
    from peft import LoraConfig, get_peft_model

    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **changes}
    policy = Policy(get_peft_model(plain(directory, getattr(torch, dtype)), LoraConfig(**settings)), 1.0)
    torch.manual_seed(3)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return policy


def same_names_and_values(weights, expected, atol=0.0):
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert weights[name].dtype == tensor.dtype
        assert torch.allclose(weights[name], tensor, rtol=0, atol=atol), name


@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_weights_are_those_of_the_plain_model_and_follow_the_optimizer(directory, batch, stage, lora):
    found = export(str(directory), stage, lora)
    start = plain(directory).state_dict()
    assert "lm_head.weight" in start
    same_names_and_values(found["before"], start)
    after = found["after"]
    assert list(after) == list(start)
    moved = {name for name in start if not torch.equal(after[name], start[name])}
    linear = {name for name in start if name.endswith("_proj.weight")}
    assert moved == linear if lora else moved >= {*linear, "lm_head.weight"}
    assert torch.allclose(logprobs_with(directory, after, batch), found["logprobs"], atol=1e-5)
    assert not torch.allclose(logprobs_with(directory, start, batch), found["logprobs"], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
def test_two_ranks_that_share_the_weights_are_given_all_of_them(directory, lora):
    launch(export_script.__file__, directory, 3, lora)
    ranks = [torch.load(directory / f"out_{rank}.pt", weights_only=True) for rank in range(2)]
    one = export(str(directory), 0, lora)
    for found in ranks:
        same_names_and_values(found["before"], one["before"])
        same_names_and_values(found["after"], one["after"], atol=1e-3)  # two steps of 1e-2
        assert torch.allclose(found["logprobs"], one["logprobs"], atol=1e-3)
        if lora:
            same_names_and_values(found["adapter"], one["adapter"], atol=1e-3)
    assert not mismatches(ranks[0]["fingerprint"], ranks[1]["fingerprint"])


@pytest.mark.parametrize(
    "changes", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}}]
)
def test_a_merged_adapter_is_what_peft_merges(directory, batch, changes):
    policy = adapted(directory, **changes)
    parameters = {name: p.detach().clone() for name, p in policy.named_parameters()}
    weights = {name: tensor.clone() for name, tensor in full_weights(Whole, policy)}
    assert all(torch.equal(p, parameters[name]) for name, p in policy.named_parameters())
    ours = policy(batch)["logprobs"]
    assert torch.allclose(logprobs_with(directory, weights, batch), ours, atol=1e-5)
    assert not torch.allclose(logprobs_with(directory, plain(directory).state_dict(), batch), ours, atol=0.1)
    merged = policy.model.merge_and_unload()
    same_names_and_values(weights, merged.state_dict(), atol=1e-6)
    tokens = batch.tokens
    with torch.no_grad():
        expected = merged(tokens).logits
        model = plain(directory)
        model.load_state_dict(weights)
        assert torch.allclose(model(tokens).logits, expected, atol=1e-5)


def test_bfloat16_weights_are_rounded_once(directory):
    policy = adapted(directory, "bfloat16")
    weights = dict(full_weights(Whole, policy))
    layer = policy.language_model.model.layers[1].mlp.up_proj
    a, b = (x["default"].weight.double() for x in (layer.lora_A, layer.lora_B))
    exact = layer.base_layer.weight.double() + 2.0 * b @ a
    found = weights["model.layers.1.mlp.up_proj.weight"]
    assert found.dtype == torch.bfloat16
    assert float((found.double() - exact).abs().max() / exact.abs().max()) < 2**-8
    assert float((found == exact.to(torch.bfloat16)).double().mean()) > 0.999


def test_an_adapter_is_exported_as_peft_saves_it(directory, tmp_path):
    policy = adapted(directory, rank_pattern={"q_proj": 2})
    policy.model.save_pretrained(tmp_path)
    tensors = dict(adapter_weights(Whole, policy))
    same_names_and_values(tensors, load_file(tmp_path / "adapter_model.safetensors"))


def test_an_adapter_that_an_engine_is_sent_is_one_that_peft_loads(directory, batch, tmp_path):
    policy = adapted(directory, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}, use_rslora=True)
    settings = policy.model.peft_config["default"]
    write_adapter(tmp_path / "adapter-1", settings, adapter_weights(Whole, policy))
    loaded = PeftModel.from_pretrained(plain(directory), str(tmp_path / "adapter-1"))
    assert torch.equal(Policy(loaded, 1.0)(batch)["logprobs"], policy(batch)["logprobs"])
    policy.model.save_pretrained(tmp_path / "peft")
    ours, theirs = (json.loads((tmp_path / d / "adapter_config.json").read_text()) for d in ("adapter-1", "peft"))
    unordered = {"target_modules": set(theirs["target_modules"]), "inference_mode": None}
    assert set(ours["target_modules"]) == unordered["target_modules"]
    assert ours | unordered == theirs | unordered
    assert settings.inference_mode is False


@pytest.mark.parametrize("stage", [2, 3])
def test_an_adapter_is_exported_whole_in_every_zero_stage(directory, stage):
    found = export(str(directory), stage, True)
    trained = {name: tensor for name, tensor in found["parameters"].items() if "lora_" in name}
    renamed = {name.removeprefix("model.").replace(".default", ""): tensor for name, tensor in trained.items()}
    same_names_and_values(found["adapter"], renamed)
    assert all(tensor.any() for tensor in found["adapter"].values())


def test_a_value_head_is_not_sent(directory, models):
    names = [name for name, _ in full_weights(Whole, actor_critic(models()))]
    assert names == list(plain(directory).state_dict())


@pytest.mark.parametrize(
    "changes", [{"use_dora": True}, {"target_modules": ["embed_tokens"]}], ids=["DoRA", "an embedding"]
)
def test_what_cannot_be_merged_is_refused(directory, changes):
    policy = adapted(directory, **changes)
    with pytest.raises(RunError, match=r"the adapter of model\..* cannot be merged"):
        list(full_weights(Whole, policy))


# --- fingerprints ---------------------------------------------------------------------------------------------------


def test_a_fingerprint_by_hand():
    tensor = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    assert fingerprint([("w", tensor)]) == {"w": (2.0, (1 + 4 + 9 - 16) / 4)}


@given(st.integers(1, 5000), st.integers(0, 2**31), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_fingerprint_sees_a_change_of_a_value_and_of_the_order(size, seed, dtype):
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)
    original = fingerprint([("w", tensor)])
    assert not mismatches(original, fingerprint([("w", tensor.clone())]))
    changed = tensor.clone()
    changed[size // 2] += 0.25
    assert mismatches(original, fingerprint([("w", changed)])) == ["w"]
    if size > 1 and not torch.equal(tensor.flip(0), tensor):
        assert original["w"][1] != fingerprint([("w", tensor.flip(0))])["w"][1]


def test_mismatches_name_what_only_one_side_has():
    ours, theirs = {"a": (1.0, 2.0), "tied": (3.0, 4.0)}, {"a": (1.0, 2.0 + 1e-12), "b": (0.0, float("nan"))}
    assert mismatches(ours, theirs) == ["b", "tied"]
    assert mismatches({"a": (0.0, float("nan"))}, {"a": (0.0, float("nan"))}) == ["a"]


def test_an_engine_that_took_over_the_weights_has_their_fingerprint(directory, models):
    policy = adapted(directory)
    engine = HfSession.__new__(HfSession)
    engine.model = models(seed=9)
    engine.sync(full_weights(Whole, policy))
    assert not mismatches(fingerprint(full_weights(Whole, policy)), fingerprint(engine.model.state_dict().items()))


# --- the loop -------------------------------------------------------------------------------------------------------


def test_lora_under_zero_3_samples_from_the_merged_weights(bandit):
    overrides = ["model.lora={rank: 4}", "trainer.zero_stage=3", "trainer.lr=0.05", "advantage=grpo"]
    ranks = start_ranks()
    experiment = uncollapse.compose(bandit, overrides)
    loop = Loop(experiment, assemble.assemble(experiment, ranks), ranks)
    sampled = loop.parts.sampler.engine.session.model
    assert not hasattr(sampled, "peft_config")
    start = {name: tensor.clone() for name, tensor in sampled.state_dict().items()}
    gaps = [loop.train_step()["rollout/logprob_gap"] for _ in range(2)]
    moved = max(float((tensor - start[name]).abs().max()) for name, tensor in sampled.state_dict().items())
    assert moved > 0.01
    assert max(gaps) < 1e-5


def test_settings_of_an_experiment_make_an_adapter_that_is_merged(directory, batch):
    policy = load_policy(Model(path="x", dtype="float32", lora=Lora(rank=2, alpha=6)), directory / "model", 1.0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    weights = {name: tensor.clone() for name, tensor in full_weights(Whole, policy)}
    layer = policy.language_model.model.layers[0].self_attn.q_proj
    update = 3.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    found = weights["model.layers.0.self_attn.q_proj.weight"] - layer.base_layer.weight
    assert torch.allclose(found, update, atol=1e-6)
