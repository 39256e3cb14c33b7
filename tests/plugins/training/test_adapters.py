"""Whatever peft adapts is scored, sent, saved and exported as peft itself computes it, or refused before a run starts.

Every adapter here has numbers in A and B: while B is zero, nothing that is left out shows.
"""

import json
import re
import sys
from pathlib import Path

import attrs
import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from uncollapse.cli.main import main
from uncollapse.core.compose.experiment import Critic, Lora, Model, Trainer
from uncollapse.core.errors import RequestError
from uncollapse.estimators.aggregation import TokenMean
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.rollout.engine_vllm.pack_weights import write_adapter
from uncollapse.plugins.rollout.engine_vllm.start import _check_served
from uncollapse.plugins.training.heads.torch_head import Torch
from uncollapse.plugins.training.networks.adapters import add_adapter, require_mergeable
from uncollapse.plugins.training.networks.models import Policy, load_policy, save_model
from uncollapse.plugins.training.networks.packing import enable_packing
from uncollapse.plugins.training.networks.shared_critic import with_value_head
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.batch import shares
from uncollapse.plugins.training.step.losses import PolicyObjective
from uncollapse.plugins.training.step.stages import score
from uncollapse.plugins.training.weights.export import merged
from uncollapse.plugins.training.weights.export_weights import adapter_weights, full_weights
from uncollapse.plugins.training.weights.reference import ReferenceAdapter

sys.path.insert(0, str(Path(__file__).parent))
from ranks_launch import backend

HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 61}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 61, "n_positions": 64}
MODELS = {
    "qwen2": {**SMALL, "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False},
    "qwen2, tied": {**SMALL, "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "gpt2": GPT2,
    "gptj": {**GPT2, "rotary_dim": 8, "tie_word_embeddings": False},
    "gpt_neox": {**SMALL, "num_attention_heads": 2, "tie_word_embeddings": False},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 61},
    "gemma2": {**SMALL, **HEADS, "tie_word_embeddings": True, "final_logit_softcapping": 5.0},
    "gemma2, untied": {**SMALL, **HEADS, "tie_word_embeddings": False, "final_logit_softcapping": 5.0},
    "exaone_moe": {
        **SMALL, **HEADS, "num_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
        "moe_intermediate_size": 16, "is_moe_layer": [False, True], "tie_word_embeddings": False,
    },
    "mixtral": {**SMALL, **HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False},
}  # fmt: skip
"""Linear layers, tied and not; transposed ones; output layers with a bias, a cap; fused ones; experts."""
RIGHT = [
    *((family, "all-linear") for family in MODELS),
    ("qwen2", "lm_head"),
    ("qwen2", ".*(q_proj|lm_head)"),
    ("qwen2", ("q_proj", "down_proj", "lm_head")),
    ("qwen2, tied", ("v_proj", "up_proj")),
    ("gpt2", ("c_attn", "c_proj")),
    ("gptj", "lm_head"),
    ("gpt_neox", ".*(query_key_value|embed_out|lm_head)"),
    ("gemma2, untied", ".*(o_proj|lm_head)"),
    ("mixtral", ".*(gate|lm_head)"),
]
REFUSED = {
    ("qwen2, tied", "lm_head"): "the adapter on lm_head would change one side of a tied weight: model.embed_tokens",
    ("qwen2, tied", ".*(q_proj|lm_head)"): "one side of a tied weight",
    ("qwen2, tied", ".*(q_proj|embed_tokens)"): "the adapter on model.embed_tokens is not one of a linear layer",
    ("qwen2", ".*embed_tokens"): "not one of a linear layer",
    ("qwen2", "q_proj"): "Target modules q_proj not found",
    ("qwen2", ("q_proj", "embed_tokens")): "not one of a linear layer",
    ("qwen2", ".*(embed_tokens|lm_head)"): "not one of a linear layer",
    ("gpt2", "lm_head"): "one side of a tied weight: transformer.wte",
    ("gpt2", ".*wpe"): "not one of a linear layer",
    ("gemma2", ".*(q_proj|lm_head)"): "one side of a tied weight",
    ("qwen2", "q_proj("): "unterminated subpattern",
    ("qwen2", "nothing"): "nothing not found",
    ("qwen2", ("q_proj", "nothing")): "no module of the model has the name 'nothing'",
    ("qwen2", ".*norm"): "a Qwen2RMSNorm cannot be adapted: it is not a linear layer",
    ("qwen2", ".*"): "a Qwen2Model cannot be adapted",
}


def config(family, **changes):
    kind = family.partition(",")[0]
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return AutoConfig.for_model(kind, **MODELS[family], initializer_range=0.1, **ends, **changes)


@pytest.fixture
def directory(request, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(request.param))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # which are zero to begin with
                parameter.normal_(std=0.3)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def settings(targets, **changes):
    return Model(path="x", dtype="float32", lora=Lora(rank=4, alpha=6, targets=targets, **changes))


def filled(model):
    """An adapter with numbers everywhere, the same for the same names."""
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                noise = torch.Generator().manual_seed(len(name) + sum(map(ord, name)))
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=noise))
    return model


def plain(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def with_peft(directory, targets):
    """The same adapter without anything of ours."""
    targets = targets if isinstance(targets, str) else list(targets)
    return filled(
        get_peft_model(
            plain(directory), LoraConfig(r=4, lora_alpha=6, target_modules=targets, task_type="CAUSAL_LM")
        ).eval()
    )


def scores(model, batch):
    """Log-probs and entropies of the tokens on the mask, from all logits."""
    logprobs = model(input_ids=batch.tokens, use_cache=False).logits.double().log_softmax(-1)[:, :-1]
    chosen = logprobs.gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
    keep = batch.mask[:, 1:]
    return chosen[keep], -(logprobs.exp() * logprobs).sum(-1)[keep]


def ours(policy, batch, **options):
    found = policy(batch, "gradient", **options)
    return found["logprobs"][batch.mask], found["entropies"][batch.mask]


def gradients(model, values):
    noise = torch.linspace(-1, 1, len(values[0]))
    trained = {name[name.index("base_model") :]: p for name, p in model.named_parameters() if p.requires_grad}
    total = (values[0].float() * noise).sum() + values[1].float().sum()
    return dict(zip(trained, torch.autograd.grad(total, list(trained.values())), strict=True))


class Whole:
    stage = 0


@pytest.mark.parametrize(("directory", "targets"), RIGHT, indirect=["directory"])
def test_an_adapter_counts_as_in_peft_wherever_it_is(directory, targets, batch, tmp_path):
    policy = load_policy(settings(targets), directory, 1.0)
    filled(policy.model)
    peft = with_peft(directory, targets)
    expected, found = scores(peft, batch), ours(policy, batch)
    for own, theirs in zip(found, expected, strict=True):
        assert float((own - theirs).abs().max()) < 1e-5
    assert float((expected[0] - scores(plain(directory), batch)[0]).abs().max()) > 0.05

    own, theirs = gradients(policy, found), gradients(peft, expected)
    assert own.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert gradient.any(), name
        assert torch.allclose(own[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())), name

    synced = plain(directory)
    sent = {name: tensor.clone() for name, tensor in full_weights(Whole, policy)}
    assert sent.keys() == synced.state_dict().keys()
    synced.load_state_dict(sent)
    assert float((scores(synced, batch)[0] - expected[0]).abs().max()) < 1e-5

    trained = {name: p.detach() for name, p in policy.named_parameters() if p.requires_grad}
    save_model(policy, trained, tmp_path / "step_1" / "model")
    again = load_policy(settings(targets), directory, 1.0, tmp_path / "step_1" / "model")
    assert torch.equal(ours(again, batch)[0], found[0])
    merged(settings(targets), directory, tmp_path / "step_1", {}).save_pretrained(tmp_path / "exported")
    assert float((scores(plain(tmp_path / "exported"), batch)[0] - expected[0]).abs().max()) < 1e-5


@pytest.mark.parametrize(("directory", "targets"), [("qwen2", "lm_head"), ("gptj", "lm_head")], indirect=["directory"])
def test_an_output_layer_with_more_than_a_weight_is_the_same_in_bfloat16(directory, targets, batch):
    half = attrs.evolve(settings(targets), dtype="bfloat16")
    policy = load_policy(half, directory, 1.0)
    assert not any(p.any() for name, p in policy.named_parameters() if "lora_B" in name)
    filled(policy.model)
    exact = scores(with_peft(directory, targets), batch)[0].float()
    own, theirs = ours(policy, batch)[0].float(), scores(policy.model, batch)[0].float()
    error, rounding = (own - exact).abs(), (theirs - exact).abs()
    assert float(error.max()) < 0.2
    assert float(error.mean()) < 1.2 * float(rounding.mean())


@pytest.mark.parametrize(("directory", "targets", "key"), [(*key, key) for key in REFUSED], indirect=["directory"])
def test_what_would_not_count_is_refused(directory, targets, key):
    with pytest.raises(RequestError, match=re.escape(REFUSED[key])) as refused:
        load_policy(settings(targets), directory, 1.0)
    assert refused.value.where == "model.lora.targets"
    assert refused.value.fix


def test_a_refusal_of_an_adapter_leaves_no_run_behind(bandit, tmp_path):
    file = tmp_path / "experiment.yaml"
    file.write_text(json.dumps(bandit))
    targets = ["--set", "model.lora={targets: '.*(q_proj|lm_head)'}"]  # the bandit's model ties its embeddings
    ended = CliRunner().invoke(main, ["train", str(file), "--run-dir", str(tmp_path / "run"), *targets])
    assert ended.exit_code == 2, ended.output
    assert "the adapter on lm_head would change one side of a tied weight" in ended.output
    assert "model.lora.targets" in ended.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("directory", ["qwen2"], indirect=True)
def test_an_adapter_on_the_output_layer_counts_in_every_pass(directory, batch):
    targets = ("q_proj", "lm_head")
    policy = load_policy(settings(targets), directory, 1.0)
    filled(policy.model)
    expected = scores(with_peft(directory, targets), batch)[0].float()
    enable_packing(policy.language_model)
    assert torch.allclose(ours(policy, batch, packed=True)[0], expected, atol=1e-5)
    with policy.using(Torch(chunk_elements=3 * 61)):
        assert torch.allclose(ours(policy, batch)[0], expected, atol=1e-5)
    shared = with_value_head(policy, Critic(shared=True))
    assert torch.allclose(ours(shared, batch)[0], expected, atol=1e-5)
    reference = ReferenceAdapter(policy, start_ranks()).score(batch)
    assert torch.allclose(reference.logprobs[batch.mask], scores(plain(directory), batch)[0].float(), atol=1e-5)
    assert torch.allclose(ours(policy, batch)[0], expected, atol=1e-5)


@pytest.mark.parametrize("directory", ["qwen2"], indirect=True)
@pytest.mark.parametrize("stage", [1, 3])
def test_an_adapter_on_the_output_layer_trains_and_is_sent_in_every_zero_stage(directory, batch, stage):
    ranks = start_ranks()
    torch.manual_seed(0)
    policy = load_policy(settings("lm_head"), directory, 1.0)
    engine = backend(stage).start(policy, Trainer(lr=1e-2), zero_stage=stage, dtype="float32", ranks=ranks)
    weighed = attrs.evolve(batch, weights=TokenMean().weights(batch.mask, 1))
    for _ in range(2):
        engine.update(shares(weighed, range(len(batch)), 1, 3)[0], PolicyObjective(Ppo()))
    sent = {name: tensor.clone() for name, tensor in full_weights(engine, policy)}
    start = plain(directory).state_dict()
    assert {name for name in start if not torch.equal(start[name], sent[name])} == {"lm_head.weight"}
    synced = plain(directory)
    synced.load_state_dict(sent)
    found = score(engine, batch, 3, ranks).logprobs[batch.mask]
    assert torch.allclose(found, scores(synced, batch)[0].float(), atol=1e-5)
    assert not torch.allclose(found, scores(plain(directory), batch)[0].float(), atol=1e-3)


@pytest.mark.parametrize("directory", ["qwen2"], indirect=True)
def test_dropout_of_an_adapter_on_the_output_layer_is_that_of_training_alone(directory, batch):
    policy = load_policy(settings("lm_head", dropout=0.5), directory, 1.0)
    filled(policy.model)
    quiet = ours(policy.eval(), batch)[0]
    assert torch.allclose(quiet, scores(with_peft(directory, "lm_head"), batch)[0].float(), atol=1e-5)
    assert not torch.allclose(ours(policy.train(), batch)[0], ours(policy, batch)[0], atol=1e-2)


@pytest.mark.parametrize("directory", ["qwen2"], indirect=True)
def test_an_adapter_that_an_engine_is_sent_alone_holds_that_of_the_output_layer(directory, batch, tmp_path):
    policy = load_policy(settings(".*(q_proj|lm_head)"), directory, 1.0)
    filled(policy.model)
    write_adapter(tmp_path / "sent", policy.model.peft_config["default"], adapter_weights(Whole, policy))
    loaded = PeftModel.from_pretrained(plain(directory), str(tmp_path / "sent")).eval()
    assert torch.allclose(scores(loaded, batch)[0].float(), ours(policy, batch)[0], atol=1e-5)
    with pytest.raises(RequestError, match="one is on the output layer") as refused:
        _check_served(policy.language_model, 16, adapter=True)
    assert "vllm(lora=merged)" in refused.value.fix
    _check_served(policy.language_model, 16, adapter=False)


@pytest.mark.parametrize("directory", ["qwen2"], indirect=True)
def test_an_output_layer_that_trains_in_full_beside_an_adapter_is_the_one_that_scores(directory, batch):
    """Not made by this package, but probed by it."""
    wanted = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = filled(get_peft_model(plain(directory), wanted).eval())
    with torch.no_grad():
        model.get_base_model().lm_head.modules_to_save["default"].weight.mul_(2)
    policy = Policy(model, 1.0)
    assert torch.allclose(ours(policy, batch)[0], scores(model, batch)[0].float(), atol=1e-5)
    with model.disable_adapter():
        assert torch.allclose(ours(policy, batch)[0], scores(plain(directory), batch)[0].float(), atol=1e-5)
    tokens = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices={"lm_head": [1]})
    single = Policy(get_peft_model(plain(directory), tokens), 1.0)
    with pytest.raises(RequestError, match="single tokens of the output layer"):
        single(batch)


def test_a_layer_whose_weight_is_read_past_its_adapter_is_refused(tmp_path):
    sizes = {**SMALL, **HEADS, "num_experts": 2, "mamba_d_state": 4, "mamba_dt_rank": 4}
    kinds = {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("jamba", **sizes, **kinds)).save_pretrained(tmp_path)
    with pytest.raises(RequestError, match=r"passes the adapter on model\.layers\.0\.mamba\.dt_proj by") as refused:
        load_policy(settings("all-linear"), tmp_path, 1.0)
    assert refused.value.where == "model.lora.targets"
    before = plain(tmp_path).state_dict()
    model = load_policy(settings(("q_proj", "in_proj")), tmp_path, 1.0).language_model
    assert all(
        torch.equal(p, before[n.replace("base_layer.", "")]) for n, p in model.named_parameters() if "lora_" not in n
    )


@pytest.mark.parametrize("directory", ["mixtral"], indirect=True)
def test_experts_with_an_adapter_are_not_sharded(directory):
    policy = load_policy(settings("all-linear"), directory, 1.0)
    require_mergeable(policy.model, zero_stage=2)
    with pytest.raises(RequestError, match="ZeRO 3 cannot shard") as refused:
        require_mergeable(policy.model, zero_stage=3)
    assert refused.value.where == "trainer.zero_stage"
    with pytest.raises(RequestError, match="between the embeddings, and one is on"):
        _check_served(policy.language_model, 16, adapter=True)


@pytest.mark.parametrize("directory", ["qwen2"], indirect=True)
def test_a_rank_beyond_every_layer_is_refused(directory):
    with pytest.raises(RequestError, match="rank 8000 is larger than what it adapts") as refused:
        add_adapter(plain(directory), Lora(rank=8000))
    assert refused.value.where == "model.lora.rank"
    add_adapter(plain(directory), Lora(rank=48))


@pytest.mark.parametrize("directory", ["qwen2"], indirect=True)
def test_an_adapter_of_a_checkpoint_is_whole_and_finite(directory, tmp_path):
    policy = load_policy(settings("all-linear"), directory, 1.0)
    trained = {name: p.detach() for name, p in policy.named_parameters() if p.requires_grad}
    save_model(policy, trained, tmp_path / "whole")
    file = "adapter_model.safetensors"
    saved = load_file(tmp_path / "whole" / file)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    damages = {
        f"settings disagree on 1 tensors, e.g. {name}": {key: x for key, x in saved.items() if key != name},
        "up_proj.lora_B.default.weight holds NaN": {**saved, name: torch.full_like(saved[name], torch.nan)},
    }
    for reason, tensors in damages.items():
        save_file(tensors, tmp_path / "whole" / file, {"format": "pt"})
        with pytest.raises(RequestError, match=re.escape(reason)):
            load_policy(settings("all-linear"), directory, 1.0, tmp_path / "whole")
    (tmp_path / "whole" / file).write_bytes(b"nothing")
    with pytest.raises(RequestError, match="the weights cannot be loaded from"):
        load_policy(settings("all-linear"), directory, 1.0, tmp_path / "whole")
