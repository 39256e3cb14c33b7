"""Whether a model's pass in training mode is the one that it would make in evaluation."""

import json
import sys
from pathlib import Path

import pytest
import torch
import uncollapse
from transformers import AutoConfig, AutoModelForCausalLM
from uncollapse.plugins.training.assemble import assemble
from uncollapse.plugins.training.networks.dropout import as_loaded, has_dropout, switch_off
from uncollapse.plugins.training.networks.models import load_tokenizer, save_model
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.loop import Loop

sys.path.insert(0, str(Path(__file__).parent))
import dropout_script
from ranks_launch import launch

SIZES = {
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2},
    "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    "opt": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 32},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "qwen2": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
    "mixtral": {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "intermediate_size": 64, "num_local_experts": 4,
    },
}  # fmt: skip
RATES = {
    "gpt2": ("attn_pdrop", "resid_pdrop", "embd_pdrop"),
    "gpt_neox": ("attention_dropout", "hidden_dropout"),
    "opt": ("dropout", "attention_dropout"),
    "falcon": ("hidden_dropout",),
    "qwen2": ("attention_dropout",),
    "mixtral": ("attention_dropout", "router_jitter_noise"),
}
"""What each configuration calls its rates of dropout, and of other noise."""


@pytest.mark.parametrize(("family", "rate"), [(family, rate) for family, rates in RATES.items() for rate in rates])
def test_every_rate_of_dropout_is_seen(family, rate):
    torch.manual_seed(0)
    quiet = dict.fromkeys(RATES[family], 0.0)
    tokens = torch.arange(8)[None]
    for changed, noisy in (({}, False), ({rate: 0.5}, True)):
        settings = {**SIZES[family], "vocab_size": 50, **quiet, **changed}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).train()
        with torch.no_grad():
            same = torch.equal(model(input_ids=tokens).logits, model(input_ids=tokens).logits)
        assert (has_dropout(model), same) == (noisy, not noisy)


@pytest.mark.parametrize("family", RATES)
def test_noise_that_is_switched_off_is_off_in_training(family):
    torch.manual_seed(0)
    settings = {**SIZES[family], "vocab_size": 50, **dict.fromkeys(RATES[family], 0.5)}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).train()
    tokens = torch.arange(8)[None]
    noisy = [model(input_ids=tokens).logits for _ in range(2)]
    switch_off(model)
    quiet = [model(input_ids=tokens).logits for _ in range(2)]
    assert not torch.equal(*noisy)
    assert torch.equal(*quiet)
    assert not has_dropout(model)
    with as_loaded(model):
        assert all(getattr(model.config, rate) == 0.5 for rate in RATES[family])
    assert torch.equal(model(input_ids=tokens).logits, quiet[0])


def test_a_models_own_dropout_is_off_unless_it_is_asked_for(bandit, tmp_path):
    """With a learning rate of 0 every step trains the policy that sampled: it is 0 nats away, in all four steps."""
    words = load_tokenizer(bandit["model"]["path"])
    default = AutoConfig.for_model("gpt2", **SIZES["gpt2"], vocab_size=len(words), n_positions=600)
    assert default.resid_pdrop == 0.1
    AutoModelForCausalLM.from_config(default).save_pretrained(tmp_path / "gpt2")
    words.save_pretrained(tmp_path / "gpt2")
    overrides = ["trainer.lr=0", "trainer.mini_batch=2", "trainer.micro_batch=1", f"model.path={tmp_path / 'gpt2'}"]
    divergences = {}
    for asked in (False, True):
        experiment = uncollapse.compose(bandit, [*overrides, "advantage=gae", f"model.dropout={str(asked).lower()}"])
        ranks = start_ranks()
        parts = assemble(experiment, ranks)
        assert has_dropout(parts.policy.module) == has_dropout(parts.critic.module) == asked
        divergences[asked] = Loop(experiment, parts, ranks).train_step()["actor/ppo_kl"]
        save_model(parts.policy.module, dict(parts.policy.weights()), tmp_path / f"saved_{asked}")
        assert AutoConfig.from_pretrained(tmp_path / f"saved_{asked}").resid_pdrop == 0.1
        parts.close()
    assert abs(divergences[False]) < 1e-6
    assert abs(divergences[True]) > 1e-3


@pytest.mark.slow
def test_ranks_drop_out_for_themselves(bandit, tmp_path):
    """Two ranks that hold the same rows would otherwise mask them alike."""
    launch(dropout_script.__file__, json.dumps(bandit), tmp_path)
    first, second = (torch.load(tmp_path / f"mask_{rank}.pt") for rank in range(2))
    assert 0.3 < float(first.mean()) < 0.7
    assert 0.3 < float((first == second).float().mean()) < 0.7
    again = dropout_script.mask(bandit)
    assert torch.equal(again, first)
