"""How token losses become one number: each rule by hand, and by its definition over any split of the rows."""

import pytest
import torch
import uncollapse
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

LOSS = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
MASK = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
BY_HAND = {
    "token-mean": 18 / 4,
    "token-sum": 18.0,
    "seq-mean-token-sum": (8 + 10) / 2,
    "seq-mean-token-mean": (8 / 3 + 10) / 2,
    "seq-mean-token-sum-norm": 18 / 4,
}
NAMES = sorted(BY_HAND)


def weights(name, mask_B_T, max_length=16):
    return uncollapse.registry().create("loss_aggregation", name).weights(mask_B_T, max_length)


def test_every_built_in_rule_is_held_by_hand():
    assert uncollapse.registry().names("loss_aggregation") == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_by_hand(name):
    weights_B_T = weights(name, MASK, 4)
    assert weights_B_T.dtype == torch.float32
    assert not weights_B_T[~MASK].any()
    assert float((weights_B_T * LOSS).sum()) == pytest.approx(BY_HAND[name])


def test_a_constant_normaliser():
    weights_B_T = weights("seq-mean-token-sum-norm", MASK, 100)
    assert float((weights_B_T * LOSS).sum()) == pytest.approx(0.18)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3)])
def test_an_empty_mask_has_zero_weights(name, shape):
    assert torch.equal(weights(name, torch.zeros(shape, dtype=torch.bool)), torch.zeros(shape))


@st.composite
def steps(draw):
    B, T = draw(st.integers(1, 8)), draw(st.integers(1, 10))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    mask = torch.rand(B, T, generator=generator) < draw(st.sampled_from([0.1, 0.5, 1.0]))
    inputs = torch.randn(B, T, generator=generator, dtype=torch.float64)
    return mask, inputs


def gradient(mask, inputs, weights_B_T, parts):
    """Of sum(weights * (theta - x)^2), one backward pass per micro-batch."""
    theta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    for rows in parts:
        (weights_B_T[rows] * (theta - inputs[rows]).square()).sum().backward()
    return float(theta.grad)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(step=steps(), data=st.data())
def test_any_split_into_micro_batches_has_the_gradient_of_the_whole(name, step, data):
    mask, inputs = step
    weights_B_T = weights(name, mask)
    B = len(mask)
    whole = gradient(mask, inputs, weights_B_T, [list(range(B))])
    parts: dict[int, list[int]] = {}
    for row in data.draw(st.permutations(range(B))):
        parts.setdefault(data.draw(st.integers(0, 3)), []).append(row)
    assert gradient(mask, inputs, weights_B_T, parts.values()) == pytest.approx(whole, rel=1e-9, abs=1e-12)

    # the definition, straight from its name
    losses = [(0.5 - inputs[b][mask[b]]).mul(2) for b in range(B) if mask[b].any()]
    if losses:
        definition = {
            "token-mean": torch.cat(losses).mean(),
            "token-sum": torch.cat(losses).sum(),
            "seq-mean-token-sum": torch.stack([x.sum() for x in losses]).mean(),
            "seq-mean-token-mean": torch.stack([x.mean() for x in losses]).mean(),
            "seq-mean-token-sum-norm": torch.cat(losses).sum() / 16,
        }
        assert whole == pytest.approx(float(definition[name]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(step=steps(), right=st.integers(0, 5), rows=st.integers(0, 3))
def test_padding_changes_nothing(name, step, right, rows):
    mask, _ = step
    padded = weights(name, pad(mask, (0, right, 0, rows)))
    assert torch.equal(padded, pad(weights(name, mask), (0, right, 0, rows)))


def test_a_length_of_nothing_is_refused():
    with pytest.raises(ValueError, match="max_length"):
        weights("seq-mean-token-sum-norm", MASK, 0)
