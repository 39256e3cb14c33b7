"""Losses -w A log pi with a weight w that has no gradient: the policy gradient, reweighted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import attrs
from torch import Tensor

from ...core.components import LossInputs, LossOutput, PolicyLoss
from .ratios import POSITIVE, advantages_of, log_ratio_of, logprobs_of, policy_kl, share


class _Weighted(PolicyLoss):
    """The loss -sg(w) A log pi of each token."""

    __slots__ = ()

    @abstractmethod
    def weights(self, ratios_B_T: Tensor, advantages_B_T: Tensor) -> Tensor:
        """[B, T] ratios pi / pi_old and [B, T] advantages -> [B, T] weights; their gradient is not used."""

    def metrics(self, ratios_B_T: Tensor, weights_B_T: Tensor, mask_B_T: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        return {"pg_clipfrac": share(weights_B_T != ratios_B_T, mask_B_T)}

    def __call__(self, inputs: LossInputs) -> LossOutput:
        log_ratios_B_T, advantages_B_T = log_ratio_of(inputs), advantages_of(inputs)
        ratios_B_T = log_ratios_B_T.detach().exp()
        weights_B_T = self.weights(ratios_B_T, advantages_B_T)
        loss_B_T = -weights_B_T * advantages_B_T * logprobs_of(inputs)
        return LossOutput(
            loss_B_T,
            {**self.metrics(ratios_B_T, weights_B_T, inputs.mask), "ppo_kl": policy_kl(log_ratios_B_T, inputs.mask)},
        )


@attrs.frozen
class Reinforce(_Weighted):
    """The plain policy gradient: ``loss = -A log pi``, without any ratio.

    Off-policy steps are not corrected: with several optimizer steps on the same rollouts the gradient is that of the
    later policies on tokens of the first one.

    Source: Williams 1992; formula as in verl 0.9.1 (``gpg``).
    """

    def weights(self, ratios_B_T: Tensor, advantages_B_T: Tensor) -> Tensor:
        return ratios_B_T.new_ones(ratios_B_T.shape)

    def metrics(self, ratios_B_T: Tensor, weights_B_T: Tensor, mask_B_T: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        return {}


@attrs.frozen
class Gpg(Reinforce):
    """The loss of group policy gradient: ``loss = -A log pi``; what is its own stands in the advantage ``gpg``.

    Source: Chu et al. 2025 (arXiv 2504.02546); formula as in verl 0.9.1.
    """


@attrs.frozen
class Cispo(_Weighted):
    """A policy gradient that is weighed by a clipped ratio: every token keeps its gradient.

    ``loss = -sg(clip(r, 1 - clip_low, 1 + clip_high)) A log pi`` with ``r = pi / pi_old`` and sg the stop-gradient. In
    PPO a token beyond the bound loses its gradient altogether.

    The paper bounds the ratio from above only, and tunes that bound; 1 + 4 = 5 is what the documentation of TRL gives
    from later work. Source: MiniMax-M1 (arXiv 2506.13585); verl 0.9.1 ``cispo`` (both bounds), TRL 1.16.0
    ``loss_type="cispo"`` (the upper one; its ``epsilon_high`` is 1 + ``clip_high`` here).
    """

    clip_low: float | None = attrs.field(
        default=None, validator=attrs.validators.optional([attrs.validators.ge(0), attrs.validators.le(1)])
    )
    """How far below 1 the weight may go; ``null`` sets no lower bound."""
    clip_high: float = attrs.field(default=4.0, validator=attrs.validators.ge(0))
    """How far above 1 the weight may go."""

    def weights(self, ratios_B_T: Tensor, advantages_B_T: Tensor) -> Tensor:
        return ratios_B_T.clamp(None if self.clip_low is None else 1 - self.clip_low, 1 + self.clip_high)


@attrs.frozen
class Topr(_Weighted):
    """Tapered off-policy REINFORCE: good tokens count in full, bad ones at most as often as the policy makes them.

    ``loss = -A log pi`` where A > 0, and ``-sg(min(r, max_ratio)) A log pi`` elsewhere, ``r = pi / pi_old``.

    The paper tells good from bad episodes by their rewards and takes the ratio of the whole episode; here, as in ROLL,
    the ratio is that of the token, and the sign is that of the token's advantage (ROLL: that of the episode's score).
    Source: Le Roux et al. 2025 (arXiv 2503.14286).
    """

    max_ratio: float = attrs.field(default=1.0, validator=attrs.validators.gt(0))
    """The largest weight of a token whose advantage is not positive."""

    def weights(self, ratios_B_T: Tensor, advantages_B_T: Tensor) -> Tensor:
        return ratios_B_T.clamp(max=self.max_ratio).where(advantages_B_T <= 0, 1.0)

    def metrics(self, ratios_B_T: Tensor, weights_B_T: Tensor, mask_B_T: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
        return {"pg_clipfrac": share((weights_B_T == self.max_ratio) & (ratios_B_T > self.max_ratio), mask_B_T)}


@attrs.frozen
class Dro(PolicyLoss):
    """Direct reward optimization: a policy gradient with a quadratic penalty on the log-ratio.

    ``loss = -(A log pi - beta / 2 (log pi - log pi_old)^2)``. The square pulls the policy back to the one that sampled
    without any clipping.

    Source: Richemond et al. 2024 (arXiv 2405.19107), formula as in verl 0.9.1 (``dro``), which gives no default of
    beta; Kimi k1.5 (arXiv 2501.12599), which has the same loss with tau in place of beta, is implemented with 0.1 in
    ROLL, and so is the default here.
    """

    beta: float = attrs.field(default=0.1, validator=POSITIVE)
    """Weight of the penalty, per nat."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        log_ratios_B_T = log_ratio_of(inputs)
        loss_B_T = 0.5 * self.beta * log_ratios_B_T.square() - advantages_of(inputs) * logprobs_of(inputs)
        return LossOutput(loss_B_T, {"ppo_kl": policy_kl(log_ratios_B_T, inputs.mask)})
