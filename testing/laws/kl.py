"""The laws of KL variants and of the controllers of their coefficient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.components import KlControllerSession
from ...core.compose.named import Named
from ...plugins.training.step.borders import CheckedController, CheckedKl
from .. import samples
from ..problems import laws, require

STEPS = 250
"""Steps for which a controller is asked whether the reference moves."""


def _estimates(named: Named) -> None:
    """A KL variant gives one finite number for each token and leaves the log-probs as they are."""
    CheckedKl(named)(samples.log_probs(1), samples.log_probs(2))


def _vanishes_where_equal(named: Named) -> None:
    """A KL variant is 0 where policy and reference agree."""
    logprobs_B_T = samples.log_probs(1)
    kl_B_T = CheckedKl(named)(logprobs_B_T, logprobs_B_T.clone())
    require(named, "call", bool((kl_B_T.abs() < 1e-5).all()), "is not 0 where both log-probs are equal")


def _can_be_differentiated(named: Named) -> None:
    """A KL variant has a finite gradient in the policy's log-probs, and each token has its own."""
    logprobs_B_T = samples.log_probs(1, torch.float64).requires_grad_()
    kl_B_T = CheckedKl(named)(logprobs_B_T, samples.log_probs(2, torch.float64))
    require(named, "call", kl_B_T.requires_grad, "does not depend on the log-probs of the policy: it would not train")
    (gradient_B_T,) = torch.autograd.grad(kl_B_T.sum(), logprobs_B_T, retain_graph=True)
    require(named, "call", bool(gradient_B_T.isfinite().all()), "has a gradient that is NaN or infinite")
    (gradient_of_first_B_T,) = torch.autograd.grad(kl_B_T[0, 0], logprobs_B_T)
    alone = bool((gradient_of_first_B_T.flatten()[1:] == 0).all())
    require(named, "call", alone, "mixes tokens: the KL of one depends on the log-prob of another")


def _bears_what_is_off_the_mask(named: Named) -> None:
    """A KL variant gives the same on the mask whatever stands off the mask, and finite numbers for rare tokens."""
    logprobs_B_T = samples.log_probs(1)
    reference_B_T = samples.log_probs(2)
    mask_B_T, _ = samples.masks()
    kl_B_T = CheckedKl(named)(logprobs_B_T, reference_B_T)
    masked_B_T = CheckedKl(named)(torch.where(mask_B_T, logprobs_B_T, 0.0), torch.where(mask_B_T, reference_B_T, 0.0))
    same = torch.allclose(kl_B_T[mask_B_T], masked_B_T[mask_B_T])
    require(named, "call", same, "changes on the mask with what stands off the mask")
    # a token may be rare for the policy alone, or for the reference alone
    CheckedKl(named)(torch.full((1, 2), -0.01), torch.tensor([[-30.0, -60.0]]))
    CheckedKl(named)(torch.tensor([[-30.0, -60.0]]), torch.full((1, 2), -0.01))


def _moves(named: Named) -> None:
    """A controller's session keeps a finite coefficient that is not negative."""
    session = CheckedController(named).start(0.1)
    require(named, "start", session.coef >= 0, f"gave the coefficient {session.coef}")
    for kl in (0.0, 0.01, 0.5, 3.0, -0.02, 1e3):
        session.update(kl, 16)
        require(named, "update", session.coef >= 0, f"made the coefficient {session.coef} after a KL of {kl}")
    fresh = CheckedController(named).start(0.1)
    apart = fresh.session is not session.session
    require(named, "start", apart, "gave the same session twice: each run has one of its own")


def _comes_back(named: Named) -> None:
    """A controller's session that goes on from its state gives the same coefficients as an uninterrupted one."""
    first, second = CheckedController(named).start(0.1), CheckedController(named).start(0.1)
    for kl in (0.5, 0.2):
        first.update(kl, 16)
    second.load_state_dict(through_json(named, first.state_dict()))
    for session in (first, second):
        session.update(0.3, 16)
    same = abs(first.coef - second.coef) < 1e-9
    what = f"does not restore the coefficient: {second.coef} after a resume, {first.coef} without"
    require(named, "load_state_dict", same, what)


def _refreshes(named: Named) -> None:
    """A controller's session moves the reference as it declares, at the same steps on all ranks and after a resume."""
    shares = _shares(CheckedController(named).start(0.1), 1, STEPS)
    alike = _shares(CheckedController(named).start(0.1), 1, STEPS) == shares
    require(named, "refresh", alike, "gave two ranks that were told the same different shares: they would train apart")
    early, late = CheckedController(named).start(0.1), CheckedController(named).start(0.1)
    _shares(early, 1, STEPS // 2)
    late.load_state_dict(through_json(named, early.state_dict()))
    same = _shares(late, STEPS // 2 + 1, STEPS) == shares[STEPS // 2 :]
    require(named, "load_state_dict", same, "moves the reference at other steps, or by other shares, after a resume")


def _shares(session: KlControllerSession, first: int, last: int) -> list[float | None]:
    """Return what the session mixes into the reference after each step, while the KL rises and falls."""
    shares = []
    for step in range(first, last + 1):
        session.update(0.01 * (step % 7), 16)
        shares.append(session.refresh(step))
    return shares


def through_json(named: Named, state: Any) -> Any:
    """Return a state as a checkpoint holds it: numbers, texts, lists and mappings, or tensors."""
    require(named, "state_dict", isinstance(state, dict), f"gave {type(state).__name__}, not a dict")
    _plain(named, state)
    return state


def _plain(named: Named, value: Any) -> None:
    """Require that a value has nothing that a checkpoint cannot hold."""
    if isinstance(value, dict):
        for item in value.values():
            _plain(named, item)
    elif isinstance(value, list | tuple):
        for item in value:
            _plain(named, item)
    else:
        plain = value is None or isinstance(value, bool | int | float | str | Tensor)
        require(named, "state_dict", plain, f"holds {type(value).__name__}, which a checkpoint cannot hold")


LAWS = {
    "kl": laws(_estimates, _vanishes_where_equal, _can_be_differentiated, _bears_what_is_off_the_mask),
    "kl_controller": laws(_moves, _comes_back, _refreshes),
}
