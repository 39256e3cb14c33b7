"""Whether a model's pass in training mode is the one that it would make in evaluation."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from uncollapse.plugins.training.dropout import has_dropout

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
