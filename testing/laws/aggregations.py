"""The laws of loss aggregations."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.compose.named import Named
from ...plugins.training.step.borders import CheckedAggregation
from .. import samples
from ..problems import laws, require

LONGEST = 16
"""Largest number of tokens of a row, which a run would give."""


def _weighs(named: Named) -> None:
    """An aggregation gives every token a finite float32 weight that is not negative, and zero off the mask."""
    weights_B_T = _weights(named, samples.masks()[0])
    what = "gave every token a weight of 0: nothing would train"
    require(named, "weights", bool((weights_B_T > 0).any()), what)


def _knows_no_order(named: Named) -> None:
    """An aggregation gives a row the same weights wherever it stands among the others."""
    mask_B_T, _ = samples.masks()
    order = torch.randperm(len(mask_B_T), generator=samples.generator(3))
    same = torch.allclose(_weights(named, mask_B_T[order]), _weights(named, mask_B_T)[order], atol=1e-7)
    require(named, "weights", same, "gave a row other weights when the same rows came in another order")


def _knows_no_padding(named: Named) -> None:
    """An aggregation gives the same weights when the rows are padded further."""
    mask_B_T, _ = samples.masks()
    padded = _weights(named, torch.nn.functional.pad(mask_B_T, (0, 3)))
    same = torch.allclose(padded[:, :-3], _weights(named, mask_B_T), atol=1e-7)
    require(named, "weights", same, "gave other weights when the rows were padded further: count the mask, not T")


def _bears_an_empty_mask(named: Named) -> None:
    """An aggregation gives zeros if no token was sampled, and to a row without tokens."""
    mask_B_T, _ = samples.masks()
    _weights(named, torch.zeros_like(mask_B_T))
    _weights(named, torch.cat([mask_B_T, torch.zeros_like(mask_B_T[:1])]))


def _weights(named: Named, mask_B_T: Tensor) -> Tensor:
    return CheckedAggregation(named).weights(mask_B_T, LONGEST)


LAWS = {"loss_aggregation": laws(_weighs, _knows_no_order, _knows_no_padding, _bears_an_empty_mask)}
