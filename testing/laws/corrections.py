"""The laws of corrections of the sampler's log-probs."""

from __future__ import annotations

import torch

from ...core.compose.named import Named
from ...plugins.training.step.borders import CheckedCorrection
from .. import samples
from ..problems import laws, require


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return old log-probs, the sampler's log-probs and the mask, each [B, T]."""
    mask_B_T, _ = samples.masks()
    old_B_T = samples.log_probs(1)
    return old_B_T, old_B_T + 0.3 * samples.log_probs(2), mask_B_T


def _weighs(named: Named) -> None:
    """A correction gives weights of all tokens that are finite and not negative, and numbers as metrics."""
    CheckedCorrection(named).correction(*_inputs())


def _is_zero_off_the_mask(named: Named) -> None:
    """A correction's weights are zero off the mask."""
    old_B_T, sampler_B_T, mask_B_T = _inputs()
    weights_B_T, _ = CheckedCorrection(named).correction(old_B_T, sampler_B_T, mask_B_T)
    zero = bool((weights_B_T[~mask_B_T] == 0).all())
    require(named, "correction", zero, "gave weights that are not zero off the mask")


def _treats_rows_alone(named: Named) -> None:
    """A correction's weights of a row do not depend on the rows beside it."""
    inputs = _inputs()
    whole_B_T, _ = CheckedCorrection(named).correction(*inputs)
    for rows in (slice(0, 3), slice(3, 8)):
        part_b_T, _ = CheckedCorrection(named).correction(*(x_B_T[rows] for x_B_T in inputs))
        what = "gave a row other weights in a smaller micro-batch"
        require(named, "correction", torch.allclose(part_b_T, whole_B_T[rows], atol=1e-6), what)


def _leaves_equals_alone(named: Named) -> None:
    """A correction gives all tokens the same weight where sampler and trainer agree."""
    old_B_T, _, mask_B_T = _inputs()
    weights_B_T, _ = CheckedCorrection(named).correction(old_B_T, old_B_T.clone(), mask_B_T)
    weights_N = weights_B_T[mask_B_T]
    what = "weighs tokens differently where the sampler's log-probs are the trainer's"
    require(named, "correction", torch.allclose(weights_N, weights_N[:1].expand_as(weights_N), atol=1e-5), what)


def _weighs_rows_as_it_says(named: Named) -> None:
    """A correction that says that it weighs rows gives all sampled tokens of a row the same weight."""
    if getattr(named.component, "weighs", "tokens") != "rows":
        return
    inputs = _inputs()
    weights_B_T, _ = CheckedCorrection(named).correction(*inputs)
    rows = zip(weights_B_T, inputs[2], strict=True)
    equal = all(bool((weights_T[mask_T] == weights_T[mask_T][:1]).all()) for weights_T, mask_T in rows)
    what = "weighs tokens of one row differently, although it says that it weighs rows"
    require(named, "correction", equal, what, 'set weighs = "tokens"')


LAWS = {
    "sampler_correction": laws(
        _weighs, _is_zero_off_the_mask, _treats_rows_alone, _leaves_equals_alone, _weighs_rows_as_it_says
    )
}
