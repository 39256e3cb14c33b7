from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad
from uncollapse.core.compose.experiment import Trainer
from uncollapse.estimators.aggregation import Mode, token_weights

MODES = get_args(Mode)
LOSS = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
MASK = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
BY_HAND = {
    "token-mean": 18 / 4,
    "token-sum": 18.0,
    "seq-mean-token-sum": (8 + 10) / 2,
    "seq-mean-token-mean": (8 / 3 + 10) / 2,
    "seq-mean-token-sum-norm": 18 / 4,
}


def test_the_modes_are_those_of_the_experiment_file():
    assert set(MODES) == set(BY_HAND)
    for mode in MODES:
        assert mode in str(Trainer.__annotations__["loss_aggregation"])


@pytest.mark.parametrize("mode", MODES)
def test_by_hand(mode):
    weights = token_weights(MASK, mode)
    assert weights.dtype == torch.float32
    assert not weights[~MASK].any()
    assert float((weights * LOSS).sum()) == pytest.approx(BY_HAND[mode])


def test_a_constant_normaliser():
    weights = token_weights(MASK, "seq-mean-token-sum-norm", max_length=100)
    assert float((weights * LOSS).sum()) == pytest.approx(0.18)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3)])
def test_an_empty_mask_has_zero_weights(mode, shape):
    assert torch.equal(token_weights(torch.zeros(shape, dtype=torch.bool), mode), torch.zeros(shape))


@st.composite
def steps(draw):
    B, T = draw(st.integers(1, 8)), draw(st.integers(1, 10))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    mask = torch.rand(B, T, generator=generator) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    inputs = torch.randn(B, T, generator=generator, dtype=torch.float64)
    return mask, inputs


def gradient(mask, inputs, weights, parts):
    """Of sum(weights * (theta - x)^2), one backward pass per micro-batch."""
    theta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    for rows in parts:
        (weights[rows] * (theta - inputs[rows]).square()).sum().backward()
    return float(theta.grad)


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None)
@given(step=steps(), data=st.data())
def test_any_split_into_micro_batches_has_the_gradient_of_the_whole(mode, step, data):
    mask, inputs = step
    weights = token_weights(mask, mode, max_length=16)
    B = len(mask)
    whole = gradient(mask, inputs, weights, [list(range(B))])
    parts: dict[int, list[int]] = {}
    for row in data.draw(st.permutations(range(B))):
        parts.setdefault(data.draw(st.integers(0, 3)), []).append(row)
    assert gradient(mask, inputs, weights, parts.values()) == pytest.approx(whole, rel=1e-9, abs=1e-12)

    # the mode's definition, straight from its name
    losses = [(0.5 - inputs[b][mask[b]]).mul(2) for b in range(B) if mask[b].any()]
    if losses:
        definition = {
            "token-mean": torch.cat(losses).mean(),
            "token-sum": torch.cat(losses).sum(),
            "seq-mean-token-sum": torch.stack([x.sum() for x in losses]).mean(),
            "seq-mean-token-mean": torch.stack([x.mean() for x in losses]).mean(),
            "seq-mean-token-sum-norm": torch.cat(losses).sum() / 16,
        }
        assert whole == pytest.approx(float(definition[mode]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None)
@given(step=steps(), right=st.integers(0, 5), rows=st.integers(0, 3))
def test_padding_changes_nothing(mode, step, right, rows):
    mask, _ = step
    padded = token_weights(pad(mask, (0, right, 0, rows)), mode, max_length=16)
    assert torch.equal(padded, pad(token_weights(mask, mode, max_length=16), (0, right, 0, rows)))


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="token-mean"):
        token_weights(MASK, "mean")
    with pytest.raises(ValueError, match="max_length"):
        token_weights(MASK, "seq-mean-token-sum-norm", max_length=0)
