"""How the Triton head cuts the logits into tiles: memory, and how often they are made."""

import pytest
import torch
from heads_help import DEVICE, ROWS, data, need
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.plugins.training.heads import triton_head
from uncollapse.plugins.training.heads.triton_head import Triton


@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 5000),
    tokens=st.integers(0, 1000),
    vocabulary=st.integers(1, 9000),
)
def test_a_tile_is_never_larger_than_was_asked_for(rows, columns, tokens, vocabulary):
    chosen = Triton(rows, columns)._columns(tokens, vocabulary)
    assert min(columns, vocabulary) <= chosen <= vocabulary
    assert chosen * min(tokens, rows) <= rows * columns


def test_the_default_tile_for_151_936_tokens():
    """Nine tiles for many rows; a short micro-batch has all its logits in one, which takes no more memory."""
    assert Triton()._columns(8192, 151_936) == Triton()._columns(50_000, 151_936) == 16_896
    assert Triton()._columns(4096, 151_936) == 33_792
    assert Triton()._columns(900, 151_936) == 151_936


@given(total=st.integers(0, 500), most=st.integers(1, 60))
def test_parts_are_equal_and_as_few_as_can_be(total, most):
    parts = triton_head._parts(total, most)
    sizes = [stop - start for start, stop in parts]
    assert [token for start, stop in parts for token in range(start, stop)] == list(range(total))
    assert len(parts) == -(-total // most)
    assert not sizes or (max(sizes) <= most and max(sizes) - min(sizes) < len(sizes) + 1)


@pytest.mark.parametrize(
    ("head", "forward", "backward"),
    [(Triton(), 1, 0), (Triton(rows=ROWS, columns=16), 3, 3), (Triton(rows=3, columns=16), 9, 9)],
    ids=["one tile is kept", "tiles are made again", "parts of tiles as well"],
)
def test_how_often_logits_are_made(monkeypatch, head, forward, backward):
    """37 columns are three tiles of 16, 7 rows are three parts of 3."""
    need("triton")
    made, buffers = [], []
    own, own_buffer = triton_head._logits, triton_head._buffer
    monkeypatch.setattr(triton_head, "_logits", lambda *given: made.append(1) or own(*given))
    monkeypatch.setattr(triton_head, "_buffer", lambda *given: buffers.append(own_buffer(*given)) or buffers[-1])
    hidden, weight, targets = data(ROWS, vocabulary=37)
    scores = head(hidden.to(DEVICE), weight.to(DEVICE), targets.to(DEVICE), entropy="gradient")
    assert len(made) == forward
    torch.autograd.grad(scores.logprobs.sum() + scores.entropies.sum(), (hidden, weight))
    assert len(made) == forward + backward
    assert max(buffer.numel() for buffer in buffers) <= min(ROWS * 37, head.rows * head.columns)
