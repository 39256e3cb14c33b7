"""Every advantage estimator computes on the sampled tokens of a batch, as one flat vector.

Observations and padding are dropped before anything is computed and come back as zeros afterwards. So they can neither
discount a reward, nor bootstrap a value, nor enter a mean, whatever stands there. The vector is cut into *runs* (rows,
or the turns of rows) that follow each other and are given by their lengths.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from ...core.errors import RunError

BLOCK = 64


@attrs.frozen(eq=False)
class SampledTokens:
    """The positions of the ``N`` sampled tokens of a ``[B, T]`` batch, row after row."""

    shape: torch.Size
    """Shape [B, T] of the batch."""
    index_N: Tensor
    """[N] int64: position of each token in the flattened batch."""
    lengths_B: Tensor
    """[B] int64: the number of sampled tokens of each row."""

    @classmethod
    def of(cls, mask_B_T: Tensor) -> SampledTokens:
        """List the tokens on the mask."""
        return cls(mask_B_T.shape, mask_B_T.reshape(-1).nonzero().squeeze(1), mask_B_T.count_nonzero(1))

    @property
    def rows_R(self) -> Tensor:
        """Lengths of the runs that are rows, [R]."""
        return self.lengths_B[self.lengths_B > 0]

    def take(self, x_B_T: Tensor) -> Tensor:
        """Take the values on the mask: [N], floating point as float64. Nothing off the mask is read."""
        x_N = x_B_T.detach().reshape(-1).index_select(0, self.index_N)
        return x_N.double() if x_N.is_floating_point() else x_N

    def place(self, x_N: Tensor, like: Tensor) -> Tensor:
        """Put values back into their positions: [B, T], zero off the mask, dtype of ``like`` (at least float32)."""
        x_N = x_N.to(torch.promote_types(like.dtype, torch.float32))
        return x_N.new_zeros(self.shape.numel()).index_copy_(0, self.index_N, x_N).view(self.shape)

    def per_token(self, x_B: Tensor) -> Tensor:
        """Give each token the value of its row: [N]."""
        return x_B.repeat_interleave(self.lengths_B)

    def row_sums(self, x_N: Tensor) -> Tensor:
        """Sum over the sampled tokens of each row: [B]."""
        rows_N = self.per_token(torch.arange(len(self.lengths_B), device=x_N.device))
        return x_N.new_zeros(len(self.lengths_B)).index_add_(0, rows_N, x_N)

    def turns_R(self, turns_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lengths in tokens of the runs that are turns [R], and how many turns each row with tokens has."""
        ends_N = torch.ones_like(turns_N, dtype=torch.bool)
        ends_N[:-1] = turns_N[1:] != turns_N[:-1]
        ends_N[self.rows_R.cumsum(0) - 1] = True
        turns_B = self.row_sums(ends_N.long())
        return ends_N.nonzero().squeeze(1).diff(prepend=turns_N.new_full((1,), -1)), turns_B[turns_B > 0]


def discounted_sums(x_N: Tensor, lengths_R: Tensor, decay: float) -> Tensor:
    """Sum ``decay ** distance * x`` from each token to the end of its run: [N]; distances count sampled tokens."""
    if not len(x_N):
        return x_N
    lengths = lengths_R.tolist()
    y_R_L = _reverse_scan(pad_sequence(list(torch.split(x_N, lengths)), batch_first=True), decay)
    return torch.cat([y_L[:length] for y_L, length in zip(y_R_L, lengths, strict=True)])


def _reverse_scan(x_R_L: Tensor, decay: float) -> Tensor:
    """Compute ``y[:, t] = sum over s >= t of decay ** (s - t) * x[:, s]`` without a loop over tokens.

    Inside blocks of 64 tokens the sum is a product with a triangular matrix of powers; the sums at the starts of the
    blocks are the same problem again, 64 times shorter. Only non-negative powers occur, so small decays underflow to 0
    instead of overflowing.
    """
    rows, length = x_R_L.shape
    if length % BLOCK:
        x_R_L = pad(x_R_L, (0, -length % BLOCK))
    x_R_K_C = x_R_L.reshape(rows, -1, BLOCK)
    steps_C = torch.arange(BLOCK, device=x_R_L.device, dtype=x_R_L.dtype)
    powers_C_C = (decay ** (steps_C[:, None] - steps_C[None, :]).clamp(min=0)).tril()
    y_R_K_C = x_R_K_C @ powers_C_C
    if length > BLOCK:
        next_R_K = pad(_reverse_scan(y_R_K_C[:, :, 0], decay**BLOCK)[:, 1:], (0, 1))
        y_R_K_C.addcmul_(next_R_K[:, :, None], decay ** (BLOCK - steps_C))
    return y_R_K_C.view(rows, -1)[:, :length]


def whiten(x_N: Tensor) -> Tensor:
    """Return ``(x - mean) / sqrt(var + 1e-8)`` with the unbiased variance, [N].

    Fewer than two tokens have no variance, and equal values differ from their mean by rounding only: both give zeros.
    """
    if not len(x_N) or bool(torch.eq(*x_N.aminmax())):
        return torch.zeros_like(x_N)
    return (x_N - x_N.mean()).mul_(torch.rsqrt(x_N.var(correction=1) + 1e-8))


def required(x: Tensor | None, name: str, estimator: str) -> Tensor:
    """Return ``x``. Raises RunError if it is missing, since ``estimator`` needs it."""
    if x is None:
        raise RunError(f"{estimator} was not given {name}", "compute() of the advantage estimator", f"pass {name}=")
    return x
