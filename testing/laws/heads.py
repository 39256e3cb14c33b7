"""The laws of token heads compare them with the distribution over the whole vocabulary."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor

from ...core.components import TokenScores, Wanted
from ...core.compose.blame import blaming
from ...core.compose.named import Named
from ...core.errors import RequestError
from .. import samples
from ..problems import laws, require

N = 9
H = 16
V = 37
Settings = tuple[tuple[float | Tensor, float | None], ...]


def _inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states [N, H], weights [V, H] and targets [N]."""
    hidden_N_H = torch.randn((N, H), generator=samples.generator(1)).requires_grad_()
    weight_V_H = (torch.randn((V, H), generator=samples.generator(2)) * 0.5).requires_grad_()
    return hidden_N_H, weight_V_H, torch.randint(0, V, (N,), generator=samples.generator(3))


def _expected(
    hidden_N_H: Tensor, weight_V_H: Tensor, targets_N: Tensor, temperature: Any, softcap: float | None
) -> TokenScores:
    """Compute the scores from the whole distribution."""
    logits_N_V = hidden_N_H @ weight_V_H.T
    if softcap is not None:
        logits_N_V = softcap * (logits_N_V / softcap).tanh()
    if isinstance(temperature, Tensor):
        temperature = temperature[:, None]
    logprobs_N_V = (logits_N_V / temperature).log_softmax(-1)
    p_N_V = logprobs_N_V.exp()
    return TokenScores(
        logprobs_N_V.gather(1, targets_N[:, None])[:, 0],
        -(p_N_V * logprobs_N_V).sum(-1),
        (p_N_V * logprobs_N_V**2).sum(-1),
        p_N_V.square().sum(-1),
    )


def _agrees(named: Named) -> None:
    """A head gives log-probs and entropies of the softmax over the vocabulary."""
    _compare(named, ("logprobs", "entropies"))


def _knows_second_moments(named: Named) -> None:
    """A head gives the second moments of the log-probs, or raises RequestError if it does not compute them."""
    try:
        _compare(named, ("second_moments",), second_moment="value")
    except RequestError:
        return


def _knows_collision_probabilities(named: Named) -> None:
    """A head gives the collision probabilities, or raises RequestError if it does not compute them."""
    parameters = signature(named.component).parameters
    # a head that does not take the argument is only asked by experiments that need it, and named when it fails
    if "collision_prob" not in parameters and all(each.kind != each.VAR_KEYWORD for each in parameters.values()):
        return
    try:
        _compare(named, ("collision_probs",), collision_prob="value")
    except RequestError:
        return


def _takes_a_temperature_for_each_row(named: Named) -> None:
    """A head takes a temperature for each row, or raises RequestError if it does not."""
    try:
        _compare(named, ("logprobs",), ((torch.linspace(0.5, 1.5, N), None),))
    except RequestError:
        return


SETTINGS: Settings = ((1.0, None), (0.7, None), (1.0, 5.0))


def _compare(named: Named, names: tuple[str, ...], settings: Settings = SETTINGS, **wanted: Wanted) -> None:
    """Require that the scores of these names are the expected ones in all settings."""
    head = named.component.on(torch.device("cpu"))
    for temperature, softcap in settings:
        options = {"temperature": temperature, "softcap": softcap, "entropy": "value", **wanted}
        inputs = _inputs()
        with blaming(named, "call"):
            scores = head(*inputs, **options)
        require(named, "call", isinstance(scores, TokenScores), f"gave {type(scores).__name__}, not TokenScores")
        expected = _expected(*inputs, temperature, softcap)
        for name in names:
            values_N = getattr(scores, name)
            right = isinstance(values_N, Tensor) and values_N.shape == (N,) and values_N.dtype == torch.float32
            require(named, "call", right, f"gave {name} that are no fp32 [N], though they were asked for")
            error = float((values_N - getattr(expected, name)).detach().abs().max())
            what = f"gave {name} that are off by up to {error:.2g} at temperature {temperature}, softcap {softcap}"
            require(named, "call", error < 1e-3, what)


def _can_be_differentiated(named: Named) -> None:
    """A head's log-probs and entropies have the gradient of the softmax in hidden states and weights."""
    head = named.component.on(torch.device("cpu"))
    gradients = []
    for full in (False, True):
        hidden_N_H, weight_V_H, targets_N = _inputs()
        if full:
            scores = _expected(hidden_N_H, weight_V_H, targets_N, 0.8, None)
        else:
            with blaming(named, "call"):
                scores = head(hidden_N_H, weight_V_H, targets_N, temperature=0.8, entropy="gradient")
        assert scores.entropies is not None
        loss = (scores.logprobs * torch.linspace(-1, 1, N)).sum() + scores.entropies.sum()
        require(named, "call", loss.requires_grad, "gave log-probs that cannot be differentiated")
        gradients.append(torch.autograd.grad(loss, (hidden_N_H, weight_V_H)))
    for name, gradient, expected in zip(("hidden states", "weights"), *gradients, strict=True):
        error = float((gradient - expected).abs().max())
        require(named, "call", error < 1e-3, f"has a gradient in the {name} that is off by up to {error:.2g}")


LAWS = {
    "token_head": laws(
        _agrees,
        _knows_second_moments,
        _knows_collision_probabilities,
        _takes_a_temperature_for_each_row,
        _can_be_differentiated,
    )
}
