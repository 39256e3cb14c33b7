import attrs
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, CTRLConfig, CTRLLMHeadModel, Gemma3Config
from uncollapse.core.compose.experiment import Lora, Model
from uncollapse.core.errors import RequestError
from uncollapse.plugins.training.networks.models import (
    Critic,
    Policy,
    load_critic,
    load_policy,
    load_reference,
    load_tokenizer,
    save_model,
)
from uncollapse.plugins.training.step.batch import Batch


def oracle(model, batch, temperature):
    logits = model(input_ids=batch.tokens).logits.double() / temperature
    logprobs = logits.log_softmax(-1)[:, :-1]
    chosen = logprobs.gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    first = torch.zeros(len(chosen), 1, dtype=torch.float64)
    return [torch.where(batch.mask, torch.cat([first, x], 1), 0.0) for x in (chosen, entropies)]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_policy_scores_equal_the_models_own_logits(model, batch, temperature):
    scores = Policy(model, temperature)(batch)
    logprobs, entropies = oracle(model, batch, temperature)
    assert torch.allclose(scores["logprobs"].double(), logprobs, atol=1e-5)
    assert torch.allclose(scores["entropies"].double(), entropies, atol=1e-5)


def test_scores_do_not_depend_on_padding_order_or_company(model, batch):
    policy = Policy(model, 1.0)
    whole = policy(batch)["logprobs"]
    order = [5, 0, 3]
    some = policy(batch.take(order))["logprobs"]
    assert torch.allclose(some, whole[order][:, : some.shape[1]], atol=1e-6)
    wider = torch.nn.functional.pad(batch.tokens, (0, 5)), torch.nn.functional.pad(batch.mask, (0, 5))
    padded = policy(attrs.evolve(Batch(*wider, lengths=batch.lengths)))["logprobs"]
    assert torch.allclose(padded[:, : whole.shape[1]], whole, atol=1e-6)


def test_critic_sees_the_state_before_the_token(model, batch):
    critic = Critic(model.get_decoder())
    torch.nn.init.normal_(critic.head.weight)
    values = critic(batch)["values"]
    changed = batch.tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 61
    assert torch.allclose(critic(attrs.evolve(batch, tokens=changed))["values"][:, :11], values[:, :11], atol=1e-6)
    assert not values[~batch.mask].any()


def test_a_new_critic_values_everything_at_zero(model, batch):
    assert not Critic(model.get_decoder())(batch)["values"].any()


def test_saved_policies_critics_and_adapters_come_back(tmp_path, model, batch):
    model.save_pretrained(tmp_path / "base")
    for lora in (None, Lora(rank=4)):
        settings = Model(path="x", dtype="float32", lora=lora)
        policy = load_policy(settings, tmp_path / "base", 1.0)
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.01)
        directory = tmp_path / f"saved_{lora is None}"
        save_model(policy, dict(policy.named_parameters()), directory)
        again = load_policy(settings, tmp_path / "base", 1.0, directory)
        assert torch.equal(again(batch)["logprobs"], policy(batch)["logprobs"])
        assert not torch.allclose(
            load_reference(settings, tmp_path / "base", 1.0)(batch)["logprobs"], again(batch)["logprobs"]
        )
        assert (directory / ("model.safetensors" if lora is None else "adapter_model.safetensors")).exists()
    critic = load_critic(settings, tmp_path / "base")
    with torch.no_grad():
        critic.head.bias.add_(2.0)
    save_model(critic, dict(critic.named_parameters()), tmp_path / "critic")
    assert torch.equal(load_critic(settings, "unused", tmp_path / "critic")(batch)["values"], critic(batch)["values"])


def test_only_the_adapter_trains_with_lora(tmp_path, model):
    model.save_pretrained(tmp_path)
    policy = load_policy(Model(path="x", dtype="float32", lora=Lora(rank=2)), tmp_path, 1.0)
    assert {name.split(".")[-3] for name, p in policy.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


def test_a_multimodal_model_trains_on_text(tmp_path, batch):
    text = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16,
        "num_key_value_heads": 1, "vocab_size": 70,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    ids = {"image_token_index": 67, "boi_token_index": 68, "eoi_token_index": 69, "mm_tokens_per_image": 4}
    config = Gemma3Config(text_config=text, vision_config=vision, **ids)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    settings = Model(path="x", dtype="float32", gradient_checkpointing=True)
    policy, critic = load_policy(settings, tmp_path, 1.0), load_critic(settings, tmp_path)
    logprobs, _ = oracle(policy.model, batch, 1.0)
    found = policy(batch)["logprobs"]
    assert torch.allclose(found.double(), logprobs, atol=1e-5)
    assert not critic(batch)["values"].any()
    found.sum().backward()
    assert all(p.grad is not None for p in policy.language_model.get_decoder().parameters())


@pytest.mark.parametrize("load", [lambda s, path: load_policy(s, path, 1.0), load_critic], ids=["policy", "critic"])
def test_a_model_that_cannot_recompute_is_a_wrong_request(tmp_path, load):
    CTRLLMHeadModel(CTRLConfig(vocab_size=70, n_positions=16, n_embd=8, dff=8, n_layer=1, n_head=1)).save_pretrained(
        tmp_path
    )
    with pytest.raises(RequestError, match="ctrl cannot recompute activations") as found:
        load(Model(path="x", dtype="float32", gradient_checkpointing=True), tmp_path)
    assert found.value.where == "model.gradient_checkpointing"


def test_a_missing_model_is_a_wrong_request(tmp_path):
    with pytest.raises(RequestError, match="cannot load a model from"):
        load_policy(Model(path="x"), tmp_path / "nothing", 1.0)
    with pytest.raises(RequestError, match="cannot load a model from"):
        load_tokenizer(tmp_path / "nothing")


def test_damaged_weights_are_a_wrong_request(tmp_path, model):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RequestError, match="cannot load a model from"):
        load_policy(Model(path="x", dtype="float32"), tmp_path, 1.0)


def test_an_adapter_that_cannot_be(tmp_path, model):
    model.save_pretrained(tmp_path)
    settings = Model(path="x", dtype="float32", lora=Lora(rank=2, targets="nonsense"))
    with pytest.raises(RequestError, match="nonsense not found") as refused:
        load_policy(settings, tmp_path, 1.0)
    assert refused.value.where == "model.lora.targets"
    settings = Model(path="x", dtype="float32", lora=Lora(rank=2))
    with pytest.raises(RequestError, match=r"adapter_config\.json") as refused:
        load_policy(settings, tmp_path, 1.0, tmp_path)  # a checkpoint of the whole model
    assert refused.value.where == "model.lora"


def test_a_word_level_tokenizer_of_a_qwen2_model_comes_back_as_it_was(tmp_path, model):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "Up": 1, "||": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", chat_template="x").save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).encode("Up || Up") == [1, 2, 1]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gemma2", {"final_logit_softcapping": 2.0, "num_attention_heads": 2, "num_key_value_heads": 2}),
        ("recurrent_gemma", {"logits_soft_cap": 2.0, "num_attention_heads": 2, "lru_width": 32}),
    ],
)
def test_capped_logits_are_capped_under_whatever_name(tmp_path, batch, kind, settings):
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **settings}))
    model.get_output_embeddings().weight.data.normal_(std=1.0)
    model.save_pretrained(tmp_path)
    policy = load_policy(Model(path="x", dtype="float32"), tmp_path, 1.0)
    logprobs, entropies = oracle(policy.model, batch, 1.0)
    scores = policy(batch)
    assert torch.allclose(scores["logprobs"].double(), logprobs, atol=1e-5)
    assert torch.allclose(scores["entropies"].double(), entropies, atol=1e-5)
    assert float(policy.model(input_ids=batch.tokens).logits.abs().max()) > 1.9


def test_a_model_that_scales_its_logits_is_refused(tmp_path, model, monkeypatch):
    model.save_pretrained(tmp_path)
    forward = type(model).forward

    def scaled(self, *args, **options):
        output = forward(self, *args, **options)
        output.logits = output.logits * 0.1
        return output

    monkeypatch.setattr(type(model), "forward", scaled)
    with pytest.raises(RequestError, match="differ from its own logits"):
        load_policy(Model(path="x", dtype="float32"), tmp_path, 1.0)
