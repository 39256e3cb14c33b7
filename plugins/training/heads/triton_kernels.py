"""The Triton kernels of the head ``triton`` each read a tile of logits once and compute all that is wanted from it.

A tile is [rows, columns of the vocabulary]. With x the logits after soft cap and temperature and m the largest x of a
row so far, a row's running sums are

    s_k = sum_v exp(x_v - m) (x_v - m)^k,    k = 0, 1, 2,

all in fp32 and relative to m, so that a peaked distribution keeps the digits of its small entropy. When m grows by
-d they are carried over by s_k <- exp(d) sum_j binomial(k, j) d^(k - j) s_j.
"""

from __future__ import annotations

import attrs
import triton
import triton.language as tl


@attrs.frozen
class Launch:
    """A launch says how a kernel is run."""

    block: int
    """Number of elements of a row that a program holds at once."""
    warps: int
    """Number of warps of a program."""


FOLD = Launch(1024, 2)
DIFFERENTIATE = Launch(1024, 2)
STATE = 5
"""Numbers of a row's state: m, s_0, s_1, s_2, and x of the target."""
ROW = 7
"""Numbers of a row that its gradient needs: m, log s_0, 1 / temperature, and see :func:`differentiate_kernel`."""


@triton.jit
def _tempered(logits, softcap, scale, SOFTCAP: tl.constexpr):
    """Return x, the logit after soft cap and temperature, and its derivative by the logit."""
    if SOFTCAP:
        tanh = 2 * tl.sigmoid(2 * logits / softcap) - 1
        x = softcap * tanh * scale
        slope = scale * (1 - tanh * tanh)
    else:
        x = logits * scale
        slope = scale
    return x, slope


@triton.jit
def _carried(s0, s1, s2, old, new, MOMENTS: tl.constexpr):
    """Return the sums relative to ``new``, from those relative to ``old``, which is -inf before the first tile."""
    d = tl.where(old == -float("inf"), 0.0, old - new)
    ratio = tl.exp(d)
    if MOMENTS >= 2:
        s2 = ratio * (s2 + d * (2 * s1 + d * s0))
    if MOMENTS >= 1:
        s1 = ratio * (s1 + d * s0)
    return ratio * s0, s1, s2


@triton.jit(do_not_specialize=["start", "rows"])
def fold_kernel(
    logits,
    stride,
    columns,
    start,
    targets,
    scales,
    state,
    rows,
    softcap,
    SOFTCAP: tl.constexpr,
    MOMENTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Fold a tile, which begins at token id ``start``, into the state [5, ``rows``]. One program is one row."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    state += row
    scale = tl.load(scales + row)
    before = tl.load(state)
    m = before
    lanes = tl.arange(0, BLOCK)
    # Every lane keeps sums of its own, so that a block costs one reduction (its maximum), not four.
    s0 = tl.zeros((BLOCK,), tl.float32)
    s1 = tl.zeros((BLOCK,), tl.float32)
    s2 = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, columns, BLOCK):
        inside = first + lanes < columns
        x, _ = _tempered(
            tl.load(logits + first + lanes, mask=inside, other=0.0).to(tl.float32), softcap, scale, SOFTCAP
        )
        x = tl.where(inside, x, -float("inf"))
        larger = tl.maximum(m, tl.max(x, axis=0))
        if larger > m:
            s0, s1, s2 = _carried(s0, s1, s2, m, larger, MOMENTS)
            m = larger
        e = tl.exp(x - m)
        s0 += e
        if MOMENTS >= 1:
            ex = e * tl.where(inside, x - m, 0.0)
            s1 += ex
        if MOMENTS >= 2:
            s2 += ex * tl.where(inside, x - m, 0.0)
    old0 = tl.load(state + rows)
    old1 = tl.load(state + 2 * rows)
    old2 = tl.load(state + 3 * rows)
    old0, old1, old2 = _carried(old0, old1, old2, before, m, MOMENTS)
    tl.store(state, m)
    tl.store(state + rows, old0 + tl.sum(s0, axis=0))
    if MOMENTS >= 1:
        tl.store(state + 2 * rows, old1 + tl.sum(s1, axis=0))
    if MOMENTS >= 2:
        tl.store(state + 3 * rows, old2 + tl.sum(s2, axis=0))
    target = tl.load(targets + row) - start
    if (target >= 0) & (target < columns):
        x, _ = _tempered(tl.load(logits + target).to(tl.float32), softcap, scale, SOFTCAP)
        tl.store(state + 4 * rows, x)


@triton.jit(do_not_specialize=["start", "rows"])
def differentiate_kernel(
    logits,
    gradient,
    stride,
    columns,
    start,
    targets,
    table,
    rows,
    softcap,
    SOFTCAP: tl.constexpr,
    DEGREE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the gradient of the loss by a tile's logits; ``gradient`` may be the tile itself.

    By x_v it is  g [v = target] + p_v (c_0 + c_1 log p_v + c_2 (log p_v)^2),  where a row of ``table`` holds m,
    log s_0, 1 / temperature, g, c_0, c_1, c_2. ``DEGREE`` is that of the polynomial.
    """
    # in 64 bits, because a tile may have more than 2^31 numbers
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = lanes < columns
    table += row
    scale = tl.load(table + 2 * rows)
    x, slope = _tempered(
        tl.load(logits + row * stride + lanes, mask=inside, other=0.0).to(tl.float32), softcap, scale, SOFTCAP
    )
    logp = x - tl.load(table) - tl.load(table + rows)
    polynomial = tl.load(table + 4 * rows)
    if DEGREE == 1:
        polynomial += logp * tl.load(table + 5 * rows)
    if DEGREE == 2:
        polynomial += logp * (tl.load(table + 5 * rows) + logp * tl.load(table + 6 * rows))
    target = tl.load(targets + row) - start
    by_x = tl.exp(logp) * polynomial + tl.where(lanes == target, tl.load(table + 3 * rows), 0.0)
    tl.store(gradient + row * stride + lanes, (by_x * slope).to(gradient.dtype.element_ty), mask=inside)
