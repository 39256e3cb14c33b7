"""Packed rows against padded ones: log-probs, entropies, values and gradients, and that no row sees another."""

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)
from uncollapse.core.components import Scores
from uncollapse.core.compose.experiment import Lora, Model
from uncollapse.core.errors import RequestError
from uncollapse.estimators.aggregation import TokenMean
from uncollapse.estimators.kl.variants import K3
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.training.networks import attention
from uncollapse.plugins.training.networks.models import Critic, Policy, load_policy
from uncollapse.plugins.training.networks.packing import Packed, enable_packing, packed_hidden
from uncollapse.plugins.training.step.batch import Batch, shares
from uncollapse.plugins.training.step.losses import PolicyObjective

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "vocab_size": 61,
    "initializer_range": 0.1,
    "pad_token_id": 0,
}


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZE)).eval()


def gemma3():
    """Its first layers see five tokens at most."""
    torch.manual_seed(0)
    layers = ["sliding_attention", "sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZE, sliding_window=5, layer_types=layers)).eval()


@pytest.fixture(params=["qwen2", "llama", "gemma3"])
def family(request, models):
    return {"qwen2": models, "llama": llama, "gemma3": gemma3}[request.param]


def ragged(batch):
    """With a row of a single token, which nothing predicts."""
    lengths, mask = batch.lengths.clone(), batch.mask.clone()
    lengths[4], mask[4] = 1, False
    return attrs.evolve(batch, lengths=lengths, mask=mask, weights=TokenMean().weights(mask, 1))


def backward(policy, batch, **options):
    objective = PolicyObjective(Ppo(), 0.03, K3(), 0.1)
    scores = policy(batch, entropy="gradient", **options)
    objective(Scores(**scores), batch)[0].backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in policy.named_parameters() if parameter.requires_grad
    }
    policy.zero_grad()
    return scores, gradients


def assert_close(found, expected, atol=2e-6):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=atol), name


def test_rows_are_laid_end_to_end():
    tokens = torch.tensor([[5, 6, 7], [8, 0, 0], [9, 4, 0]])
    mask = torch.tensor([[0, 1, 1], [0, 0, 0], [0, 1, 0]], dtype=torch.bool)
    packed = Packed.of(Batch(tokens=tokens, mask=mask, lengths=torch.tensor([3, 1, 2])))
    assert packed.tokens.tolist() == [[5, 6, 7, 8, 9, 4]]
    assert packed.positions.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert packed.boundaries.tolist() == [0, 3, 4, 6]
    assert packed.boundaries.dtype == torch.int32
    assert packed.predicts.tolist() == [True, True, False, False, True, False]
    assert packed.longest == 3


def test_scores_and_gradients_equal_those_of_padded_rows(family, batch):
    batch = ragged(batch)
    policy = Policy(family(), 0.7)
    expected, gradients = backward(policy, batch)
    enable_packing(policy.model)
    found, found_gradients = backward(policy, batch, packed=True)
    assert_close(found, expected)
    assert_close(found_gradients, gradients)
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 0.01


def test_values_equal_those_of_padded_rows(family, batch):
    critic = Critic(family().get_decoder())
    torch.nn.init.normal_(critic.head.weight)
    expected = critic(ragged(batch))["values"]
    enable_packing(critic.decoder)
    found = critic(ragged(batch), packed=True)["values"]
    assert torch.allclose(found, expected, atol=2e-6)
    assert expected.abs().max() > 0.1


def test_passes_that_are_not_packed_stay_as_they_are(family, batch):
    policy = Policy(family(), 1.0)
    left_padded = torch.where(torch.arange(19)[None] < 5, 0, batch.tokens)
    inputs = {"input_ids": left_padded, "attention_mask": (torch.arange(19)[None] >= 5).long().expand(7, -1)}

    def outputs():
        generated = policy.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        return [*policy(batch).values(), policy.model(**inputs).logits[:, 5:], generated]

    before = outputs()
    enable_packing(policy.model)
    for found, expected in zip(outputs(), before, strict=True):
        assert torch.equal(found, expected)


def test_changing_a_row_changes_no_other_row_by_a_bit(model, batch):
    policy = Policy(model, 1.0)
    enable_packing(model)
    before = policy(batch, packed=True)
    for changed in range(len(batch)):
        tokens = batch.tokens.clone()
        tokens[changed] = (tokens[changed] + 1) % 61
        after = policy(attrs.evolve(batch, tokens=tokens), packed=True)
        others = torch.arange(len(batch)) != changed
        for name, values in before.items():
            assert torch.equal(after[name][others], values[others])
            assert not batch.mask[changed].any() or not torch.equal(after[name][changed], values[changed])


def test_the_order_of_the_rows_does_not_matter(model, batch):
    policy = Policy(model, 1.0)
    enable_packing(model)
    order = torch.tensor([5, 0, 3, 6, 1, 4, 2])
    whole, shuffled = policy(batch, packed=True), policy(batch.take(order), packed=True)
    for name, values in whole.items():
        assert torch.allclose(shuffled[name], values[order], atol=2e-6)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), ranks=st.integers(1, 3), budget=st.integers(1, 140))
def test_any_budget_and_any_number_of_ranks_has_the_same_gradient(models, batches, seed, ranks, budget):
    batch = batches(seed=seed)
    batch = attrs.evolve(batch, weights=TokenMean().weights(batch.mask, 1))
    policy = Policy(models(), 1.0)
    _, expected = backward(policy, batch)
    enable_packing(policy.model)
    total = {name: torch.zeros_like(gradient) for name, gradient in expected.items()}
    for own in shares(batch, range(len(batch)), ranks, 4, budget):
        for micro_batch in own:
            for name, gradient in backward(policy, micro_batch, packed=True)[1].items():
                total[name] += gradient
    assert_close(total, expected, atol=5e-6)


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_gradient_checkpointing_and_adapters(tmp_path, model, batch, lora):
    model.save_pretrained(tmp_path)
    batch = ragged(batch)
    expected = None
    for checkpointing in (False, True):
        settings = Model(path="x", dtype="float32", lora=lora, gradient_checkpointing=checkpointing)
        torch.manual_seed(0)
        policy = load_policy(settings, tmp_path, 1.0).train()
        expected = expected or backward(policy, batch)
        enable_packing(policy.language_model)
        assert policy.training
        scores, gradients = backward(policy, batch, packed=True)
        assert_close(scores, expected[0])
        assert_close(gradients, expected[1])


def test_a_saved_model_does_not_name_the_attention(tmp_path, model, batch):
    enable_packing(model)
    model.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa"


def test_what_cannot_be_packed_is_refused():
    from transformers import (
        BloomConfig,
        BloomForCausalLM,
        Gemma2Config,
        Gemma2ForCausalLM,
        MambaConfig,
        MambaForCausalLM,
    )

    small = {"hidden_size": 32, "vocab_size": 61}
    for model, reason in (
        (MambaForCausalLM(MambaConfig(**small, num_hidden_layers=1)), "mamba .* has layers of type linear_attention"),
        (Gemma2ForCausalLM(Gemma2Config(**SIZE)), "gemma2 .* has attention with softcap"),
        (BloomForCausalLM(BloomConfig(**small, n_layer=1, n_head=4)), "bloom .* has attention of its own"),
    ):
        with pytest.raises(RequestError, match=reason):
            enable_packing(model)


def test_the_first_of_several_layers_that_cannot_be_packed_is_named():
    model = llama()
    model.config.layer_types = ["mamba", "linear_attention", "full_attention"]
    with pytest.raises(RequestError, match=r"llama .* has layers of type linear_attention"):
        enable_packing(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_model_that_drops_the_boundaries_is_refused(models, monkeypatch, dtype):
    model = models(dtype)
    with torch.no_grad():
        model.model.norm.weight *= 1e-4  # the difference is relative to the hidden states
    attention = type(model.model.layers[0].self_attn)
    forward = attention.forward

    def forgetful(self, *args, cu_seq_lens_q=None, **options):
        """In the last of the two layers."""
        kept = {} if self.layer_idx else {"cu_seq_lens_q": cu_seq_lens_q}
        return forward(self, *args, **kept, **options)

    refusal = r"qwen2 cannot train on packed rows: it makes something else of packed rows \(they differ by 0.7\)"
    with monkeypatch.context() as patch:
        patch.setattr(attention, "forward", forgetful)
        with pytest.raises(RequestError, match=refusal):
            enable_packing(model)
    enable_packing(model)


# --- flash attention ---


def flash_by_hand(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
    """What torch documents, in plain steps: [N, heads, size] states, rows by their boundaries, a window to the left."""
    assert cu_seq_q.equal(cu_seq_k)
    assert max_q == max_k >= int(cu_seq_q.diff().max())
    left, right = window_size
    output = torch.zeros_like(query)
    group = query.shape[1] // key.shape[1]
    for start, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        at = torch.arange(end - start)
        sees = (at[None] <= at[:, None] + right) & ((at[None] >= at[:, None] - left) | (left < 0))
        for head in range(query.shape[1]):
            logits = query[start:end, head] @ key[start:end, head // group].T * scale
            probs = logits.masked_fill(~sees, -torch.inf).softmax(-1)
            output[start:end, head] = probs @ value[start:end, head // group]
    return output


@pytest.mark.parametrize("window", [None, 3])
def test_flash_attention_is_called_with_what_equals_the_loop_over_rows(monkeypatch, window):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 12, 8, generator=generator) for heads in (4, 2, 2))
    boundaries = torch.tensor([0, 7, 8, 12], dtype=torch.int32)
    options = {"scaling": 0.4, "sliding_window": window, "cu_seq_lens_q": boundaries, "max_length_q": 7}
    loop, _ = attention.attention(None, query, key, value, None, **options)
    monkeypatch.setattr(attention, "_flash_is_possible", lambda *_: True)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "flash_attention", flash_by_hand)
        flash, _ = attention.attention(None, query, key, value, None, **options)
    assert loop.shape == (1, 12, 4, 8)
    assert torch.allclose(loop, flash, atol=1e-6)
    first = scaled_dot_product_attention(
        query[:, :, :3], key[:, :, :3], value[:, :, :3], is_causal=True, scale=0.4, enable_gqa=True
    )
    assert torch.allclose(loop[:, :3], first.transpose(1, 2), atol=1e-6)  # no window is shorter than these three
    if attention.flash_attention is not None:  # does this torch's own take such a call?
        meta = (x.to("meta") for x in (query, key, value))
        shape, _ = attention.attention(None, *meta, None, **{**options, "cu_seq_lens_q": boundaries.to("meta")})
        assert shape.shape == loop.shape


@pytest.mark.parametrize("packed", [False, True])
def test_repeating_shared_heads_for_the_kernel_changes_nothing(models, batches, monkeypatch, packed):
    batch = ragged(batches(rows=5, width=30))
    expected, gradients = backward(Policy(models(), 1.0), batch)
    policy = Policy(models(), 1.0)
    heads = []

    def kernel(query, key, value, **options):
        heads.append((query.shape[1], key.shape[1], value.shape[1]))
        return scaled_dot_product_attention(query, key, value, **options)

    monkeypatch.setattr(attention, "_wants_each_head", lambda query: True)
    enable_packing(policy.model) if packed else attention.use_own_attention(policy.model)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "scaled_dot_product_attention", kernel)
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", kernel)
        found, found_gradients = backward(policy, batch, packed=packed)
    config = policy.model.config
    assert config.num_key_value_heads < config.num_attention_heads
    assert set(heads) == {(config.num_attention_heads,) * 3}
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-5), name
    for name, value in gradients.items():
        assert torch.allclose(found_gradients[name], value, atol=1e-5), name


@pytest.mark.parametrize("size", [8, 264])
def test_heads_are_not_repeated_twice(monkeypatch, size):
    """Beyond a head size of 256 transformers repeats them itself."""
    monkeypatch.setattr(attention, "_wants_each_head", lambda query: True)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZE | {"head_dim": size, "num_hidden_layers": 1})).eval()
    tokens = torch.arange(12).view(2, 6)
    expected = model(tokens).logits
    attention.fuse_fp32_attention(model)
    assert model.config._attn_implementation == attention.NAME
    assert torch.allclose(model(tokens).logits, expected, atol=1e-5)


def test_other_attention_is_left_alone():
    """One that chooses tokens by an index goes by the name of its attention: it would see all tokens under ours."""
    sizes = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
    index = {"index_topk": 4, "index_n_heads": 2, "index_head_dim": 16}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    sparse = AutoConfig.for_model("deepseek_v32", **SIZE, **sizes, **index, **experts, moe_intermediate_size=16)
    whole = LlamaConfig(**SIZE | {"num_key_value_heads": 4})
    for config in (sparse, whole):
        model = AutoModelForCausalLM.from_config(config).float()
        attention.fuse_fp32_attention(model)
        assert model.config._attn_implementation == "sdpa"
    recurrent = AutoConfig.for_model("mamba", hidden_size=32, num_hidden_layers=1, vocab_size=50)
    for config in (recurrent, Gemma4TextConfig(**SIZE, global_head_dim=16, num_kv_shared_layers=0)):
        model = AutoModelForCausalLM.from_config(config).float()
        before = model.config._attn_implementation
        attention.fuse_fp32_attention(model)
        assert model.config._attn_implementation == before
    half = LlamaForCausalLM(LlamaConfig(**SIZE)).bfloat16()
    attention.fuse_fp32_attention(half)
    assert half.config._attn_implementation == "sdpa"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA's kernels need a GPU")
@pytest.mark.parametrize("packed", [False, True])
def test_fp32_on_a_gpu_never_holds_probabilities(tmp_path, packed):
    rows, width, heads = 4, 2048, 8
    LlamaForCausalLM(LlamaConfig(**SIZE | {"num_attention_heads": heads})).save_pretrained(tmp_path)
    policy = load_policy(Model(dtype="float32"), tmp_path, 1.0).cuda()
    if packed:
        enable_packing(policy.model)
    tokens = torch.ones(rows, width, dtype=torch.long, device="cuda")
    batch = Batch(tokens=tokens, mask=tokens.bool(), lengths=torch.full((rows,), width, device="cuda"))
    torch.cuda.reset_peak_memory_stats()
    policy.hidden_states(batch, packed=packed).sum().backward()
    assert torch.cuda.max_memory_allocated() < 4 * rows * heads * width**2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash attention needs a GPU")
def test_flash_attention_on_a_gpu(models, batches):
    """In bfloat16 against float32 padded rows: no further from them than padded bfloat16 rows, give or take."""
    batch = ragged(batches(rows=16, width=120)).to(torch.device("cuda"))
    exact = Policy(models().cuda(), 1.0)
    expected, gradients = backward(exact, batch)
    rounded = Policy(models(torch.bfloat16).cuda(), 1.0)
    padded, padded_gradients = backward(rounded, batch)
    enable_packing(rounded.model)
    states = torch.zeros(1, 4, 8, 8, device="cuda", dtype=torch.bfloat16)
    assert attention._flash_is_possible(states, states, 0.0)
    found, found_gradients = backward(rounded, batch, packed=True)

    def error(found, expected):
        flat = torch.cat([value.flatten().float() for value in expected.values()])
        return float((torch.cat([found[name].flatten().float() for name in expected]) - flat).norm() / flat.norm())

    assert error(found, expected) < 1.5 * error(padded, expected) + 1e-3
    assert error(found_gradients, gradients) < 1.5 * error(padded_gradients, gradients) + 1e-2
    assert packed_hidden(rounded.model.get_decoder(), Packed.of(batch)).shape[1] == 32
