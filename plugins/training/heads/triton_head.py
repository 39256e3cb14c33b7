"""The head ``triton`` makes tiles of logits over the vocabulary with cuBLAS; fused kernels read each of them once.

In the forward pass each tile is folded into running sums per row (:mod:`.triton_kernels`), from which log-prob, entropy
and second moment follow. In the backward pass each tile is made again and turned in place into the gradient by its
logits; two more matrix products give the gradients by hidden states and weight, both summed in fp32. The derivatives,
with l = log p, are

    d l_y / d x_v = [v = y] - p_v
    d H / d x_v   = -p_v (l_v + H)
    d M / d x_v   =  p_v (l_v^2 + 2 l_v + 2 H - M)

so that in all cases the gradient by x is p times a polynomial in log p, plus one number at the target.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import attrs
import torch
from attrs import validators
from torch import Tensor
from torch.autograd.function import once_differentiable

from ....core.components import TokenHead, TokenScores, Wanted
from ....core.errors import RequestError

ALIGNMENT = 128
"""Multiple of numbers that the rows of a tile are stored apart, for the speed of cuBLAS and whole cache lines."""


@attrs.frozen
class Triton(TokenHead):
    """Fold and differentiate tiles of the vocabulary, which cuBLAS makes, with fused Triton kernels; on GPUs.

    Everything after a tile of logits is fp32, and so are the sums over tiles. Beside the gradients themselves, memory
    is one tile, the fp32 sum of the hidden states' gradient and, only where there are more rows than ``rows``, that of
    one tile's weight gradient. If all logits fit one tile, they are kept from the forward to the backward pass rather
    than made again.
    """

    rows: int = attrs.field(default=8192, validator=[validators.ge(1), validators.le(1 << 24)])
    """Largest number of rows in a tile; more rows are cut into equal parts."""
    columns: int = attrs.field(default=16896, validator=[validators.ge(1), validators.le(1 << 24)])
    """Number of columns of the vocabulary in a tile of ``rows`` rows; fewer rows get proportionally more. The default
    is a whole number of waves of 128 x 256 blocks on the 132 multiprocessors of an H100 (264 MiB of bfloat16)."""
    float32_logits: bool = False
    """Whether the logits of a bfloat16 model stay in fp32, as the matrix product gives them. Rounded, a logit of size
    20 is off by up to 1/16, and so is its log-prob; but in fp32 a tile and its gradient take three times the memory."""

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield the reasons why it cannot work on this machine.

        GPUs are not looked for, because training may start on another machine.
        """
        if not find_spec("triton"):
            yield "needs Triton, which is not installed"

    def on(self, device: torch.device) -> Triton:
        fix = "leave model.head at auto, or use torch"
        if not find_spec("triton"):
            raise RequestError("the token head triton needs Triton, which is not installed", "model.head", fix)
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise RequestError(f"the token head triton needs a GPU, and the model is on {device}", "model.head", fix)
        return self

    def __call__(
        self,
        hidden_N_H: Tensor,
        weight_V_H: Tensor,
        targets_N: Tensor,
        *,
        temperature: float | Tensor = 1.0,
        softcap: float | None = None,
        entropy: Wanted = "value",
        second_moment: Wanted = "none",
    ) -> TokenScores:
        """See :class:`~....core.components.TokenHead`."""
        self.on(hidden_N_H.device)
        if isinstance(temperature, Tensor):
            temperatures_N = temperature.detach().to(hidden_N_H.device, torch.float32).expand_as(targets_N)
        else:
            temperatures_N = torch.full_like(targets_N, temperature, dtype=torch.float32)
        return TokenScores(
            *_Scores.apply(
                hidden_N_H,
                weight_V_H,
                targets_N.contiguous(),
                1 / temperatures_N,
                softcap or None,
                (entropy, second_moment),
                self.rows,
                self._columns(len(targets_N), len(weight_V_H)),
                torch.float32 if self.float32_logits else hidden_N_H.dtype,
            )
        )

    def _columns(self, rows: int, vocabulary: int) -> int:
        """Return the width of tiles of ``rows`` rows, so that a tile has about as many numbers as a full one."""
        fitting = self.rows * self.columns // max(rows, 1) // ALIGNMENT * ALIGNMENT
        return min(max(fitting, self.columns), vocabulary)


class _Scores(torch.autograd.Function):
    """The differentiable function returns log-probs, entropies and second moments, [N] or ``None`` if not wanted."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        scales: Tensor,
        softcap: float | None,
        wanted: tuple[Wanted, Wanted],
        rows: int,
        columns: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        from . import triton_kernels as kernels

        ctx.set_materialize_grads(False)
        moments = 2 if wanted[1] != "none" else int(wanted[0] != "none")
        state = torch.zeros(kernels.STATE, len(targets), device=hidden.device)
        state[0].fill_(-torch.inf)
        state[4].fill_(torch.nan)  # what a target outside of the vocabulary leaves
        whole = len(targets) <= rows and columns == len(weight)
        buffer = _buffer(hidden, min(len(targets), rows), columns, dtype)
        for start, stop in _ranges(len(weight), columns):
            for first, last in _parts(len(targets), rows):
                logits = _logits(hidden[first:last], weight[start:stop], buffer)
                kernels.fold_kernel[(last - first,)](
                    logits,
                    logits.stride(0),
                    stop - start,
                    start,
                    targets[first:last],
                    scales[first:last],
                    state[:, first:last],
                    state.stride(0),
                    softcap or 1.0,
                    SOFTCAP=softcap is not None,
                    MOMENTS=moments,
                    BLOCK=kernels.FOLD.block,
                    num_warps=kernels.FOLD.warps,
                )
        largest, total, first_moment, second_moment, target = state
        log_total = total.log()
        mean = first_moment / total
        entropies = log_total - mean if moments >= 1 else None
        squares = second_moment / total - log_total * (2 * mean - log_total) if moments == 2 else None
        ctx.softcap, ctx.rows, ctx.columns, ctx.dtype = softcap, rows, columns, dtype
        kept = buffer if whole and any(ctx.needs_input_grad) else None
        ctx.save_for_backward(hidden, weight, targets, scales, largest, log_total, entropies, squares, kept)
        outputs = [entropies if wanted[0] != "none" else None, squares]
        constant = [x for x, how in zip(outputs, wanted, strict=True) if how == "value"]
        ctx.mark_non_differentiable(*constant)
        return target - largest - log_total, *outputs

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_logprobs: Tensor | None, by_entropies: Tensor | None, by_squares: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        from . import triton_kernels as kernels

        hidden, weight, targets, scales, largest, log_total, entropies, squares, kept = ctx.saved_tensors
        degree = 2 if by_squares is not None else int(by_entropies is not None)
        table = torch.zeros(kernels.ROW, len(targets), device=hidden.device)
        table[0], table[1], table[2] = largest, log_total, scales
        if by_logprobs is not None:
            table[3] = by_logprobs
            table[4] -= by_logprobs
        if by_entropies is not None:
            table[4] -= by_entropies * entropies
            table[5] -= by_entropies
        if by_squares is not None:
            table[4] += by_squares * (2 * entropies - squares)
            table[5] += 2 * by_squares
            table[6] = by_squares
        parts = _parts(len(targets), ctx.rows)
        by_hidden = torch.zeros_like(hidden, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        by_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        shape = min(len(targets), ctx.rows), ctx.columns
        gradients = _buffer(hidden, *shape, hidden.dtype)
        buffer = gradients if kept is not None or ctx.dtype == hidden.dtype else _buffer(hidden, *shape, ctx.dtype)
        for start, stop in _ranges(len(weight), ctx.columns):
            # one part is the product itself, several are summed in fp32 first
            sums = None
            if by_weight is not None and len(parts) != 1:
                sums = torch.zeros(stop - start, hidden.shape[1], device=hidden.device)
            for first, last in parts:
                logits = kept if kept is not None else _logits(hidden[first:last], weight[start:stop], buffer)
                gradient = gradients[: last - first, : stop - start]
                grid = (last - first, -(-(stop - start) // kernels.DIFFERENTIATE.block))
                kernels.differentiate_kernel[grid](
                    logits,
                    gradient,
                    gradient.stride(0),
                    stop - start,
                    start,
                    targets[first:last],
                    table[:, first:last],
                    table.stride(0),
                    ctx.softcap or 1.0,
                    SOFTCAP=ctx.softcap is not None,
                    DEGREE=degree,
                    BLOCK=kernels.DIFFERENTIATE.block,
                    num_warps=kernels.DIFFERENTIATE.warps,
                )
                if by_hidden is not None:
                    _add_product(by_hidden[first:last], gradient, weight[start:stop])
                if sums is not None:
                    _add_product(sums, gradient.T, hidden[first:last])
                elif by_weight is not None:
                    torch.mm(gradient.T, hidden[first:last], out=by_weight[start:stop])
            if by_weight is not None and sums is not None:
                by_weight[start:stop] = sums
        return None if by_hidden is None else by_hidden.to(hidden.dtype), by_weight, *[None] * 7

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        """Raise RequestError: there is no forward-mode derivative, and zeros in its place would be wrong."""
        raise RequestError(
            "the token head triton has no forward-mode derivative", "model.head", "differentiate with the head torch"
        )


def _buffer(hidden: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Allocate memory for a tile, [rows, columns], whose rows begin where cuBLAS' fast kernels want them to."""
    return hidden.new_empty(rows, -(-columns // ALIGNMENT) * ALIGNMENT, dtype=dtype)[:, :columns]


def _logits(hidden: Tensor, weight: Tensor, buffer: Tensor) -> Tensor:
    """Compute ``hidden @ weight.T`` in the upper left corner of the buffer."""
    logits = buffer[: len(hidden), : len(weight)]
    if logits.dtype == hidden.dtype:
        return torch.mm(hidden, weight.T, out=logits)
    if _widens(hidden):
        return torch.mm(hidden, weight.T, out_dtype=logits.dtype, out=logits)
    return torch.mm(hidden.to(logits.dtype), weight.T.to(logits.dtype), out=logits)


def _ranges(total: int, size: int) -> list[tuple[int, int]]:
    """Cut ``total`` numbers into ranges of ``size``, the last of which may be shorter."""
    return [(start, min(start + size, total)) for start in range(0, total, size)]


def _parts(total: int, most: int) -> list[tuple[int, int]]:
    """Cut ``total`` numbers into the fewest equal ranges of at most ``most``; 0 numbers give no range."""
    return _ranges(total, -(-total // -(-total // most))) if total else []


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a @ b`` to ``total`` in fp32, because rounded products would add up to a biased sum."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    elif _widens(a):
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.float(), b.float())


def _widens(factor: Tensor) -> bool:
    """Say whether torch can give products of such 16-bit matrices in fp32: on a GPU, from torch 2.8 on."""
    return factor.is_cuda and hasattr(torch.ops.aten.addmm, "dtype_out")
