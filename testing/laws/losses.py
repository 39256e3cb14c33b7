"""The laws of policy losses; the most important one is that the split of the rows changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from ...core.components import LossInputs
from ...core.compose.blame import confined
from ...core.compose.named import Named
from ...plugins.training.step.borders import CheckedLoss
from .. import samples
from ..problems import laws, require

SPLITS = ((1,) * 8, (2, 2, 2, 2), (3, 5), (7, 1), (4, 4))
"""Splits into micro-batches, by the number of rows of each."""


def _gives_a_loss(named: Named) -> None:
    """A loss gives one finite number for each token, with a gradient in the log-probs."""
    inputs = _prepared(named, _inputs(named))
    loss_B_T, _ = CheckedLoss(named)(inputs)
    gradient = _gradient(loss_B_T, inputs.logprobs)
    require(named, "call", bool(gradient.isfinite().all()), "has a gradient that is NaN or infinite")
    require(named, "call", float(gradient.norm()) > 0, "has a gradient of 0 on all tokens: nothing would train")


def _is_zero_off_the_mask(named: Named) -> None:
    """A loss is zero off the mask, and so is its gradient."""
    inputs = _prepared(named, _inputs(named))
    loss_B_T, _ = CheckedLoss(named)(inputs)
    off = ~inputs.mask
    require(named, "call", bool((loss_B_T[off] == 0).all()), "is not zero off the mask", "torch.where(mask, loss, 0.0)")
    quiet = bool((_gradient(loss_B_T, inputs.logprobs)[off] == 0).all())
    require(named, "call", quiet, "has a gradient off the mask", "torch.where(mask, loss, 0.0)")


def _bears_nan_off_the_mask(named: Named) -> None:
    """A loss and its gradient are finite on the mask if there are NaN off the mask."""
    clean = _inputs(named)
    names = ("logprobs", "old_logprobs", "advantages", "entropies", "sampler_logprobs", "ref_logprobs")
    with_nan = {}
    for name in names:
        values_B_T = getattr(clean, name)
        if values_B_T is not None:
            with_nan[name] = values_B_T.detach().masked_fill(~clean.mask, torch.nan)
    with_nan["logprobs"].requires_grad_()
    inputs = _prepared(named, attrs.evolve(clean, **with_nan))
    with confined(named, "call"):
        loss_B_T, _ = named.component(inputs)
    gradient = _gradient(loss_B_T, inputs.logprobs)
    fine = bool(loss_B_T.isfinite().all() and gradient[inputs.mask].isfinite().all())
    what = "spreads a NaN off the mask to tokens that train"
    require(named, "call", fine, what, "mask before you compute: a product with 0 keeps NaN")


def _knows_no_micro_batches(named: Named) -> None:
    """Any split of the rows into micro-batches and ranks has the same gradient and the same metrics."""
    inputs = _inputs(named)
    whole_B_T, metrics = _of_split(named, inputs, (samples.ROWS,))
    for sizes in SPLITS:
        gradient_B_T, metrics_of_split = _of_split(named, inputs, sizes)
        error = float((gradient_B_T - whole_B_T).norm() / whole_B_T.norm())
        what = f"has another gradient with micro-batches of {_words(sizes)} rows (off by {error:.1%})"
        fix = "what couples rows (ranks, thresholds, counts) belongs in prepare(), which sees all of them"
        require(named, "call", torch.allclose(gradient_B_T, whole_B_T, rtol=1e-6, atol=1e-9), what, fix)
        for name, value in metrics.items():
            what = f"gives the metric {name} another value with micro-batches of {_words(sizes)} rows"
            # a metric that is missing differs from any value
            difference = abs(metrics_of_split.get(name, value + 1) - value)
            require(named, "call", difference <= 1e-6 * max(1, abs(value)), what, fix)


def _says_what_its_ratio_is_of(named: Named) -> None:
    """A loss whose ratio is of tokens gives a token a gradient that no other old log-prob of its row changes."""
    if getattr(named.component, "ratio_of", "tokens") != "tokens":
        return
    inputs = _prepared(named, _inputs(named))
    last_B = _last(inputs.mask)
    moved = inputs.old_logprobs.clone()
    moved[torch.arange(len(moved)), last_B] += 0.05
    before, after = (
        _gradient(CheckedLoss(named)(changed).loss_B_T, inputs.logprobs)
        for changed in (inputs, attrs.evolve(inputs, old_logprobs=moved))
    )
    others = inputs.mask.clone()
    others[torch.arange(len(moved)), last_B] = False
    what = "gives a token another gradient where the old log-prob of another token of its row changes"
    fix = 'set ratio_of = "rows", which is refused with corrections of single tokens'
    require(named, "call", torch.allclose(before[others], after[others], rtol=1e-6, atol=1e-9), what, fix)


def _says_whether_it_spreads(named: Named) -> None:
    """The loss of a token has a gradient in its own log-prob alone, unless the loss says that it spreads."""
    if getattr(named.component, "spreads", False):
        return
    inputs = _prepared(named, _inputs(named))
    loss_B_T = CheckedLoss(named)(inputs).loss_B_T
    last_B = _last(inputs.mask)
    (gradient,) = torch.autograd.grad(loss_B_T[torch.arange(len(last_B)), last_B].sum(), inputs.logprobs)
    gradient[torch.arange(len(last_B)), last_B] = 0.0
    what = "gives the loss of a token a gradient in the log-probs of other tokens"
    require(named, "call", bool((gradient == 0).all()), what, "set spreads = True, or detach what is of other tokens")


def _last(mask_B_T: Tensor) -> Tensor:
    """Return the place of the last token on the mask of each row: [B]."""
    return mask_B_T.long().cumsum(1).argmax(1)


def _inputs(named: Named) -> LossInputs:
    """Make the inputs, with reference log-probs only for a loss that needs them: a run may have no reference."""
    inputs = samples.loss_inputs()
    needed = "reference" in named.needs
    return inputs if needed else attrs.evolve(inputs, ref_logprobs=None)


def _of_split(named: Named, inputs: LossInputs, sizes: tuple[int, ...]) -> tuple[Tensor, dict[str, float]]:
    """Compute the gradient [B, T] in the log-probs, and the metrics, of one optimizer step of such micro-batches."""
    prepared = _prepared(named, inputs)
    loss = CheckedLoss(named)
    gradients = []
    sums: dict[str, tuple[float, float]] = {}
    for rows in torch.arange(samples.ROWS).split(list(sizes)):
        part = _taken(prepared, rows)
        loss_B_T, metrics = loss(part)
        gradients.append(_gradient(loss_B_T, part.logprobs))
        for name, (total, count) in metrics.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = before[0] + float(total), before[1] + float(count)
    return torch.cat(gradients), {name: total / count for name, (total, count) in sums.items() if count}


def _prepared(named: Named, inputs: LossInputs) -> LossInputs:
    loss = CheckedLoss(named)
    # without a need for them, nobody has computed them before the optimizer step
    wanted = {"entropies", "minibatch"} & set(named.needs)
    entropies = inputs.entropies if wanted else None
    seen = attrs.evolve(inputs, logprobs=inputs.logprobs.detach(), entropies=entropies, prepared={})
    with torch.no_grad():
        return attrs.evolve(inputs, prepared=loss.prepare(seen))


def _taken(inputs: LossInputs, rows: Tensor) -> LossInputs:
    """Take rows, as a micro-batch of a run has them: its log-probs are not a part of those of all rows."""
    changed: dict[str, Any] = {}
    for field in attrs.fields(LossInputs):
        value = getattr(inputs, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = value[rows]
        elif isinstance(value, Mapping):
            changed[field.name] = {name: x[rows] if x.ndim else x for name, x in value.items()}
    changed["logprobs"] = inputs.logprobs.detach()[rows].requires_grad_()
    return attrs.evolve(inputs, **changed)


def _gradient(loss_B_T: Tensor, logprobs: Tensor) -> Tensor:
    """Compute the gradient of a weighted sum, [B, T]; in a plain sum, effects of tokens on each other may cancel."""
    weights = 1 + torch.linspace(0, 1, loss_B_T.shape[1], dtype=loss_B_T.dtype)
    (gradient,) = torch.autograd.grad((weights * loss_B_T).sum(), logprobs)
    return gradient


def _words(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, dict.fromkeys(sizes)))


LAWS = {
    "policy_loss": laws(
        _gives_a_loss,
        _is_zero_off_the_mask,
        _bears_nan_off_the_mask,
        _knows_no_micro_batches,
        _says_what_its_ratio_is_of,
        _says_whether_it_spreads,
    )
}
