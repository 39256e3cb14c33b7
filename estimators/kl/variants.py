"""Per-token estimates of KL(policy || reference) from the log-prob of the sampled token.

The formulas use d = logprob - ref_logprob. Whether the value is unbiased is one question, whether the gradient is
another. ``value_bias`` and ``gradient_bias`` answer them for tokens that the policy itself sampled, as a term of the
loss and as a part of the reward (where the value is a constant that the advantages carry). All of it holds per token,
given the tokens before it: a term of the loss leaves out that a token changes the states, and so the KL, of the tokens
after it. In the reward that part is kept, as far as the advantage estimator looks ahead.

Names and formulas are those of verl 0.6.1, where the ``+`` names exist but cannot be used; k1, k2, k3 are those of
Schulman 2020, "Approximating KL divergence"; the gradients are worked out in arXiv 2510.01555 and 2512.21852.
"""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import Tensor

from ...core.components import KlVariant


def _with_k2_gradient(value_B_T: Tensor, logprobs_B_T: Tensor, ref_logprobs_B_T: Tensor) -> Tensor:
    """Replace the gradient of the value by that of ``mse``, namely d."""
    d_B_T = logprobs_B_T - ref_logprobs_B_T
    # the last factor is 0 and has the gradient 1
    return value_B_T.detach() + d_B_T.detach() * (logprobs_B_T - logprobs_B_T.detach())


@attrs.frozen
class K1(KlVariant):
    """Estimate the KL by the log-ratio, ``d = logprob - ref_logprob``.

    [B, T], [B, T] -> [B, T] nats; a single token's value may be negative. Gradient in logprob: 1.

    As a term of the loss it does not regularise: the gradient is noise around zero. Put it in the reward
    (``kl.placement: reward``), or set ``kl.weight: differentiable``. Source: Schulman 2020 (k1), verl (``kl``).
    """

    value_bias: ClassVar[str] = "Unbiased for KL(policy || reference)."
    gradient_bias: ClassVar[str] = (
        "In the loss zero on average, so no pull to the reference at all, unless kl.weight is differentiable, which "
        "gives the gradient of KL(policy || reference) on- and off-policy; in the reward unbiased for that gradient."
    )

    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        return logprobs - ref_logprobs


@attrs.frozen
class K1Plus(KlVariant):
    """Estimate the KL by the log-ratio ``d``, with the gradient of ``mse`` (in logprob also ``d``).

    [B, T], [B, T] -> [B, T] nats. Source: verl (``kl+``).
    """

    value_bias: ClassVar[str] = "Unbiased for KL(policy || reference)."
    gradient_bias: ClassVar[str] = (
        "In the loss unbiased for the gradient of KL(policy || reference), off-policy with kl.weight detached "
        "(differentiable doubles it); in the reward the same as kl, so unbiased too."
    )

    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        return _with_k2_gradient(logprobs - ref_logprobs, logprobs, ref_logprobs)


@attrs.frozen
class Abs(KlVariant):
    """Estimate the KL by the size of the log-ratio, ``|d|``.

    [B, T], [B, T] -> [B, T] nats, never negative. Gradient in logprob: the sign of d. Source: verl (``abs``).
    """

    value_bias: ClassVar[str] = "Biased upwards: the mean of |d| is at least KL(policy || reference)."
    gradient_bias: ClassVar[str] = (
        "In the loss the gradient of twice the total variation distance between policy and reference, not of a KL; "
        "in the reward biased."
    )

    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        return (logprobs - ref_logprobs).abs()


@attrs.frozen
class AbsPlus(KlVariant):
    """Estimate the KL by the size of the log-ratio, ``|d|``, with the gradient of ``mse`` (in logprob ``d``).

    [B, T], [B, T] -> [B, T] nats. Source: verl (``abs+``).
    """

    value_bias: ClassVar[str] = "Biased upwards: the mean of |d| is at least KL(policy || reference)."
    gradient_bias: ClassVar[str] = (
        "In the loss unbiased for the gradient of KL(policy || reference), off-policy with kl.weight detached; "
        "in the reward the same as abs, so biased."
    )

    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        return _with_k2_gradient((logprobs - ref_logprobs).abs(), logprobs, ref_logprobs)


@attrs.frozen
class K2(KlVariant):
    """Estimate the KL by half the squared log-ratio, ``d^2 / 2``.

    [B, T], [B, T] -> [B, T] nats squared, read as nats near the reference; never negative. Gradient in logprob: d.

    The value is biased, the gradient is right; so it is its own ``+`` form. Source: Schulman 2020 (k2), verl (``mse``).
    """

    value_bias: ClassVar[str] = "Biased; equal to KL(policy || reference) to second order near the reference."
    gradient_bias: ClassVar[str] = (
        "In the loss unbiased for the gradient of KL(policy || reference), off-policy with kl.weight detached "
        "(differentiable gives the gradient of the mean of d^2 / 2 instead); in the reward biased."
    )

    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        return 0.5 * (logprobs - ref_logprobs).square()


@attrs.frozen
class _Clamped(KlVariant):
    """The base of ``low_var_kl`` and ``low_var_kl+`` holds the parameters and the value that they share."""

    clip_log_ratio: float = attrs.field(default=20.0, validator=attrs.validators.gt(0))
    """Limit of d in nats: it is clamped to +- this before it is exponentiated; ``.inf`` does not clamp."""
    clip_value: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    """Largest value in nats: what is above it is clamped; ``.inf`` does not clamp."""

    def _value(self, logprobs_B_T: Tensor, ref_logprobs_B_T: Tensor) -> Tensor:
        minus_d_B_T = (ref_logprobs_B_T - logprobs_B_T).clamp(-self.clip_log_ratio, self.clip_log_ratio)
        # expm1 because exp(x) - 1 loses all digits of a small x in float32.
        return (torch.expm1(minus_d_B_T) - minus_d_B_T).clamp(max=self.clip_value)


@attrs.frozen
class K3(_Clamped):
    """Estimate the KL by the log-ratio with a control variate, ``exp(-d) - 1 + d``.

    [B, T], [B, T] -> [B, T] nats, never negative. Gradient in logprob: ``1 - exp(-d)``, and 0 where d or the value is
    clamped, so tokens far from the reference are not pulled back. Source: Schulman 2020 (k3), verl (``low_var_kl``).
    """

    value_bias: ClassVar[str] = "Unbiased for KL(policy || reference) where nothing is clamped, with little variance."
    gradient_bias: ClassVar[str] = (
        "In the loss that of the forward KL(reference || policy), and of KL(policy || reference) if kl.weight is "
        "differentiable; in the reward that of KL(policy || reference) minus KL(reference || policy), so biased."
    )

    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        return self._value(logprobs, ref_logprobs)


@attrs.frozen
class K3Plus(_Clamped):
    """Estimate the KL by the value of ``low_var_kl``, ``exp(-d) - 1 + d``, with the gradient of ``mse``, ``d``.

    [B, T], [B, T] -> [B, T] nats. The clamps act on the value only; the gradient has none. Source: verl
    (``low_var_kl+``).
    """

    value_bias: ClassVar[str] = "Unbiased for KL(policy || reference) where nothing is clamped, with little variance."
    gradient_bias: ClassVar[str] = (
        "In the loss unbiased for the gradient of KL(policy || reference), off-policy with kl.weight detached "
        "(differentiable is biased); in the reward the same as low_var_kl, so biased."
    )

    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        return _with_k2_gradient(self._value(logprobs, ref_logprobs), logprobs, ref_logprobs)
