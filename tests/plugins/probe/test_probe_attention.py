"""The attention of the forward-mode passes is that of torch, and so is its derivative, whatever the block."""

import pytest
import torch
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from uncollapse.plugins.probe.estimation import attention
from uncollapse.plugins.probe.estimation.attention import DifferentiableAttention, in_blocks

ROWS, HEADS, QUERIES, KEYS, SIZE = 2, 4, 7, 7, 5
BOOLEAN = torch.rand(ROWS, 1, QUERIES, KEYS, generator=torch.Generator().manual_seed(1)) < 0.5
BOOLEAN[..., 0] = True  # every query sees a key
ADDED = torch.randn(ROWS, HEADS, QUERIES, KEYS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
CASES = {
    "plain": {},
    "causal": {"is_causal": True},
    "boolean mask": {"attn_mask": BOOLEAN},
    "mask of one row of keys": {"attn_mask": BOOLEAN[:, :, :1]},
    "added mask": {"attn_mask": ADDED},
    "scale": {"is_causal": True, "scale": 0.3},
    "grouped": {"is_causal": True, "enable_gqa": True},
}


def states(heads: int, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(ROWS, HEADS, QUERIES, SIZE), (ROWS, heads, KEYS, SIZE), (ROWS, heads, KEYS, SIZE)]
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


@pytest.mark.parametrize("block", [1, 3, 7, 64])
@pytest.mark.parametrize("case", CASES)
def test_value_and_derivative_are_those_of_torch(case, block, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", block)
    options = CASES[case]
    heads = 2 if options.get("enable_gqa") else HEADS
    at, along = states(heads, 3), states(heads, 4)
    with sdpa_kernel(SDPBackend.MATH):
        expected, rate = jvp(lambda *x: scaled_dot_product_attention(*x, **options), at, along)
    with DifferentiableAttention():
        found, found_rate = jvp(lambda *x: scaled_dot_product_attention(*x, **options), at, along)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found_rate, rate, rtol=1e-12, atol=1e-12)


def test_fewer_keys_than_queries_under_a_causal_mask():
    query, key, value = states(HEADS, 3)
    expected = scaled_dot_product_attention(query, key[:, :, :4], value[:, :, :4], is_causal=True)
    torch.testing.assert_close(in_blocks(query, key[:, :, :4], value[:, :, :4], is_causal=True), expected)


def test_only_attention_is_replaced():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with DifferentiableAttention():
        assert torch.equal(torch.nn.functional.softmax(x, -1), x.softmax(-1))
