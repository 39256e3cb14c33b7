"""The one place where a loss is normalised: the weight of every token of an optimizer step.

The weights are computed once, from the mask of all rows of the step (every micro-batch of every rank), and travel with
the rows. A micro-batch contributes ``sum(weights * loss)``, and the contributions are added, never averaged. So any
split of the same rows into micro-batches and ranks has the same gradient, and ranks need not exchange counts. (A mean
of micro-batch means, as RAGEN-2 and verl 0.6.1 compute it, changes with the split.) A framework that averages gradients
over ranks or micro-batches, as DeepSpeed does, has that undone by whoever drives it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Mode = Literal["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


def token_weights(mask_B_T: Tensor, mode: Mode = "token-mean", max_length: int | None = None) -> Tensor:
    """[B, T] float32 weights with loss = sum(weights * loss_B_T), zero off the mask.

    N sampled tokens in all, n_b of them in row b, R rows with at least one:

    * ``token-mean``: 1 / N
    * ``token-sum``: 1
    * ``seq-mean-token-sum``: 1 / R
    * ``seq-mean-token-mean``: 1 / (R * n_b)
    * ``seq-mean-token-sum-norm``: 1 / max_length, the sum over **all** tokens and rows over a constant length. (Despite
      its name it is not divided by the number of rows; this is the formula of verl 0.6.1.)

    A row without a sampled token counts nowhere, and an empty mask has zero weights: no NaN.

    Args:
        mask_B_T: [B, T] bool, all rows of one optimizer step.
        mode: one of the above.
        max_length: the normaliser of ``seq-mean-token-sum-norm`` in tokens; by default T, the padded length of the
            step. Pass a constant (the longest row that there can be), or the loss scales with the longest row.

    Raises:
        ValueError: an unknown mode, or a max_length that is not positive.
    """
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length is a number of tokens, at least 1, not {max_length}")
    tokens_B = mask_B_T.sum(1)
    rows = (tokens_B > 0).sum()
    divisors = {
        "token-mean": tokens_B.sum(),
        "token-sum": torch.tensor(1),
        "seq-mean-token-sum": rows,
        "seq-mean-token-mean": (rows * tokens_B)[:, None],
        "seq-mean-token-sum-norm": torch.tensor(max_length or mask_B_T.shape[1]),
    }
    if mode not in divisors:
        raise ValueError(f"loss_aggregation is one of {', '.join(divisors)}, not {mode!r}")
    return mask_B_T / divisors[mode].clamp(min=1)
