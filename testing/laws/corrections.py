"""Laws of corrections of the sampler's log-probs."""

from __future__ import annotations

import torch

from ...core.compose.experiment import Named
from ...plugins.training.step.borders import CheckedCorrection
from .. import samples
from ..problems import laws, require


def _given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mask, _ = samples.masks()
    old, sampler = samples.log_probs(1), samples.log_probs(1) + 0.3 * samples.log_probs(2)
    return old, sampler, mask


def _weighs(named: Named) -> None:
    """A correction gives weights of all tokens that are finite and not negative, and numbers as metrics."""
    CheckedCorrection(named).correction(*_given())


def _is_zero_off_the_mask(named: Named) -> None:
    """A correction's weights are zero off the mask."""
    old, sampler, mask = _given()
    weights_B_T, _ = CheckedCorrection(named).correction(old, sampler, mask)
    require(named, "correction", bool((weights_B_T[~mask] == 0).all()), "gave weights that are not zero off the mask")


def _treats_rows_alone(named: Named) -> None:
    """A correction's weights of a row do not depend on the rows beside it."""
    given = _given()
    whole, _ = CheckedCorrection(named).correction(*given)
    for rows in (slice(0, 3), slice(3, 8)):
        part, _ = CheckedCorrection(named).correction(*(each[rows] for each in given))
        what = "gave a row other weights in a smaller micro-batch"
        require(named, "correction", torch.allclose(part, whole[rows], atol=1e-6), what)


def _leaves_equals_alone(named: Named) -> None:
    """A correction weighs tokens alike where sampler and trainer agree."""
    old, _, mask = _given()
    weights_B_T, _ = CheckedCorrection(named).correction(old, old.clone(), mask)
    on = weights_B_T[mask]
    what = "weighs tokens differently where the sampler's log-probs are the trainer's"
    require(named, "correction", torch.allclose(on, on[:1].expand_as(on), atol=1e-5), what)


LAWS = {"sampler_correction": laws(_weighs, _is_zero_off_the_mask, _treats_rows_alone, _leaves_equals_alone)}
