"""The head ``triton`` makes tiles of logits over the vocabulary with cuBLAS; fused kernels read each of them once.

In the forward pass each tile is folded into running sums per row (:mod:`.triton_kernels`), from which log-prob, entropy
and second moment follow. In the backward pass each tile is made again and turned in place into the gradient by its
logits; two more matrix products give the gradients by hidden states and weight, both summed in fp32. The derivatives,
with l = log p, are

    d l_y / d x_v = [v = y] - p_v
    d H / d x_v   = -p_v (l_v + H)
    d M / d x_v   =  p_v (l_v^2 + 2 l_v + 2 H - M)

so that in all cases the gradient by x is p times a polynomial in log p, plus one number at the target.

Shapes of a tile are written in small letters: n rows of N, v columns of V.
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
from .torch_head import Torch

ALIGNMENT = 128
"""Multiple of numbers that the rows of a tile are stored apart, for the speed of cuBLAS and whole cache lines."""


@attrs.frozen
class Triton(TokenHead):
    """Fold and differentiate tiles of the vocabulary, which cuBLAS makes, with fused Triton kernels; on GPUs.

    Everything after a tile of logits is fp32, and so are the sums over tiles. Beside the gradients themselves, memory
    is one tile, the fp32 sum of the hidden states' gradient and, only where there are more rows than ``rows``, that of
    one tile's weight gradient. If all logits fit one tile, they are kept from the forward to the backward pass rather
    than made again. Where collision probabilities are wanted, which the kernels do not sum, the whole pass is that of
    ``torch``.
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
        collision_prob: Wanted = "none",
    ) -> TokenScores:
        """See :class:`~....core.components.TokenHead`."""
        self.on(hidden_N_H.device)
        if collision_prob != "none":
            wanted = {"entropy": entropy, "second_moment": second_moment, "collision_prob": collision_prob}
            return Torch()(hidden_N_H, weight_V_H, targets_N, temperature=temperature, softcap=softcap, **wanted)
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
        hidden_N_H: Tensor,
        weight_V_H: Tensor,
        targets_N: Tensor,
        scales_N: Tensor,
        softcap: float | None,
        wanted: tuple[Wanted, Wanted],
        rows: int,
        columns: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Fold all tiles of ``rows`` times ``columns`` logits, and compute the scores from the running sums."""
        ctx.set_materialize_grads(False)
        ctx.softcap = softcap
        ctx.rows = rows
        ctx.columns = columns
        ctx.dtype = dtype
        moments = 2 if wanted[1] != "none" else int(wanted[0] != "none")
        buffer = _buffer(hidden_N_H, min(len(targets_N), rows), columns, dtype)
        state_5_N = _folded(ctx, hidden_N_H, weight_V_H, targets_N, scales_N, moments, buffer)
        largest_N, total_N, first_N, second_N, target_N = state_5_N
        log_total_N = total_N.log()
        mean_N = first_N / total_N
        entropies_N = log_total_N - mean_N if moments >= 1 else None
        squares_N = second_N / total_N - log_total_N * (2 * mean_N - log_total_N) if moments == 2 else None
        # if all logits fit one tile, the backward pass need not make them again
        is_whole = len(targets_N) <= rows and columns == len(weight_V_H)
        kept = buffer if is_whole and any(ctx.needs_input_grad) else None
        saved = (hidden_N_H, weight_V_H, targets_N, scales_N, largest_N, log_total_N, entropies_N, squares_N, kept)
        ctx.save_for_backward(*saved)
        outputs = [entropies_N if wanted[0] != "none" else None, squares_N]
        constant = [x_N for x_N, how in zip(outputs, wanted, strict=True) if how == "value"]
        ctx.mark_non_differentiable(*constant)
        return target_N - largest_N - log_total_N, *outputs

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_logprobs_N: Tensor | None, by_entropies_N: Tensor | None, by_squares_N: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Turn each tile into the gradient by its logits, and add up the gradients by hidden states and weight."""
        hidden_N_H, weight_V_H, targets_N, *_, kept = ctx.saved_tensors
        degree = 2 if by_squares_N is not None else int(by_entropies_N is not None)
        table_7_N = _gradient_table(ctx, by_logprobs_N, by_entropies_N, by_squares_N)
        parts = _parts(len(targets_N), ctx.rows)
        by_hidden_N_H = torch.zeros_like(hidden_N_H, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        by_weight_V_H = torch.empty_like(weight_V_H) if ctx.needs_input_grad[1] else None
        shape = min(len(targets_N), ctx.rows), ctx.columns
        gradients = _buffer(hidden_N_H, *shape, hidden_N_H.dtype)
        # a tile of another type than the gradient cannot be overwritten by it
        same_type = kept is not None or ctx.dtype == hidden_N_H.dtype
        buffer = gradients if same_type else _buffer(hidden_N_H, *shape, ctx.dtype)
        for start, stop in _ranges(len(weight_V_H), ctx.columns):
            # one part is the product itself, several are summed in fp32 first
            sums_v_H = None
            if by_weight_V_H is not None and len(parts) != 1:
                sums_v_H = torch.zeros(stop - start, hidden_N_H.shape[1], device=hidden_N_H.device)
            for first, last in parts:
                hidden_n_H, weight_v_H = hidden_N_H[first:last], weight_V_H[start:stop]
                logits_n_v = kept if kept is not None else _logits(hidden_n_H, weight_v_H, buffer)
                gradient_n_v = gradients[: last - first, : stop - start]
                part = slice(first, last)
                _differentiate(ctx, logits_n_v, gradient_n_v, start, targets_N[part], table_7_N[:, part], degree)
                if by_hidden_N_H is not None:
                    _add_product(by_hidden_N_H[first:last], gradient_n_v, weight_v_H)
                if sums_v_H is not None:
                    _add_product(sums_v_H, gradient_n_v.T, hidden_n_H)
                elif by_weight_V_H is not None:
                    torch.mm(gradient_n_v.T, hidden_n_H, out=by_weight_V_H[start:stop])
            if by_weight_V_H is not None and sums_v_H is not None:
                by_weight_V_H[start:stop] = sums_v_H
        by_hidden = None if by_hidden_N_H is None else by_hidden_N_H.to(hidden_N_H.dtype)
        return by_hidden, by_weight_V_H, *[None] * 7

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        """Raise RequestError: there is no forward-mode derivative, and zeros in its place would be wrong."""
        raise RequestError(
            "the token head triton has no forward-mode derivative", "model.head", "differentiate with the head torch"
        )


def _folded(
    ctx: Any,
    hidden_N_H: Tensor,
    weight_V_H: Tensor,
    targets_N: Tensor,
    scales_N: Tensor,
    moments: int,
    buffer: Tensor,
) -> Tensor:
    """Make every tile of logits and fold it into the state of its rows, [5, N]; see :data:`.triton_kernels.STATE`."""
    from . import triton_kernels as kernels

    state_5_N = torch.zeros(kernels.STATE, len(targets_N), device=hidden_N_H.device)
    state_5_N[0].fill_(-torch.inf)
    # a target outside of the vocabulary leaves the NaN where it is
    state_5_N[4].fill_(torch.nan)
    for start, stop in _ranges(len(weight_V_H), ctx.columns):
        for first, last in _parts(len(targets_N), ctx.rows):
            logits_n_v = _logits(hidden_N_H[first:last], weight_V_H[start:stop], buffer)
            kernels.fold_kernel[(last - first,)](
                logits_n_v,
                logits_n_v.stride(0),
                stop - start,
                start,
                targets_N[first:last],
                scales_N[first:last],
                state_5_N[:, first:last],
                state_5_N.stride(0),
                ctx.softcap or 1.0,
                SOFTCAP=ctx.softcap is not None,
                MOMENTS=moments,
                BLOCK=kernels.FOLD.block,
                num_warps=kernels.FOLD.warps,
            )
    return state_5_N


def _gradient_table(
    ctx: Any, by_logprobs_N: Tensor | None, by_entropies_N: Tensor | None, by_squares_N: Tensor | None
) -> Tensor:
    """Collect what the gradient of a row needs, [7, N]; see :func:`.triton_kernels.differentiate_kernel`."""
    from . import triton_kernels as kernels

    *_, scales_N, largest_N, log_total_N, entropies_N, squares_N, _ = ctx.saved_tensors
    table_7_N = torch.zeros(kernels.ROW, len(scales_N), device=scales_N.device)
    table_7_N[0] = largest_N
    table_7_N[1] = log_total_N
    table_7_N[2] = scales_N
    if by_logprobs_N is not None:
        table_7_N[3] = by_logprobs_N
        table_7_N[4] -= by_logprobs_N
    if by_entropies_N is not None:
        table_7_N[4] -= by_entropies_N * entropies_N
        table_7_N[5] -= by_entropies_N
    if by_squares_N is not None:
        table_7_N[4] += by_squares_N * (2 * entropies_N - squares_N)
        table_7_N[5] += 2 * by_squares_N
        table_7_N[6] = by_squares_N
    return table_7_N


def _differentiate(
    ctx: Any, logits_n_v: Tensor, gradient_n_v: Tensor, start: int, targets_n: Tensor, table_7_n: Tensor, degree: int
) -> None:
    """Write the gradient by a tile's logits, which begins at token id ``start``, into ``gradient_n_v``."""
    from . import triton_kernels as kernels

    rows, columns = gradient_n_v.shape
    kernels.differentiate_kernel[(rows, -(-columns // kernels.DIFFERENTIATE.block))](
        logits_n_v,
        gradient_n_v,
        gradient_n_v.stride(0),
        columns,
        start,
        targets_n,
        table_7_n,
        table_7_n.stride(0),
        ctx.softcap or 1.0,
        SOFTCAP=ctx.softcap is not None,
        DEGREE=degree,
        BLOCK=kernels.DIFFERENTIATE.block,
        num_warps=kernels.DIFFERENTIATE.warps,
    )


def _buffer(hidden_N_H: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Allocate memory for a tile, [rows, columns], whose rows begin where cuBLAS' fast kernels want them to."""
    return hidden_N_H.new_empty(rows, -(-columns // ALIGNMENT) * ALIGNMENT, dtype=dtype)[:, :columns]


def _logits(hidden_n_H: Tensor, weight_v_H: Tensor, buffer: Tensor) -> Tensor:
    """Compute the logits of a tile, [n, v], in the upper left corner of the buffer."""
    logits_n_v = buffer[: len(hidden_n_H), : len(weight_v_H)]
    dtype = logits_n_v.dtype
    if dtype == hidden_n_H.dtype:
        return torch.mm(hidden_n_H, weight_v_H.T, out=logits_n_v)
    if _widens(hidden_n_H):
        return torch.mm(hidden_n_H, weight_v_H.T, out_dtype=dtype, out=logits_n_v)
    return torch.mm(hidden_n_H.to(dtype), weight_v_H.T.to(dtype), out=logits_n_v)


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
