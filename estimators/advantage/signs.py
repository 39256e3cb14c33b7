"""These estimators treat good and bad outcomes differently, since the two move entropy in opposite ways."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs.validators import and_, ge, gt, in_, lt
from torch import Tensor

from ...core.components import AdvantageEstimator, Advantages, CreditInputs
from ...core.compose.fields import component
from ...core.compose.inner import refuse_itself
from .sampled_tokens import SampledTokens, discounted_sums, required

FINITE = and_(gt(-math.inf), lt(math.inf))
NATS = and_(ge(0.0), lt(math.inf))


class _Signed(AdvantageEstimator):
    """The base of REINFORCE whose good outcomes have a weight of their own."""

    __slots__ = ()
    needs: ClassVar[frozenset[str]] = frozenset()
    positive: float
    threshold: float

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield why it cannot work: without an episode that is bad by itself there is nothing to learn from."""
        environment, reward = experiment.environment, experiment.reward
        as_earned = reward.shaping.component.idle and reward.normalization == "identity"
        as_earned = as_earned and not environment.component.reward_names
        least = environment.component.least_reward if as_earned else None
        if least is not None and least >= self.threshold:
            yield (
                f"learns from episodes whose reward is below threshold = {self.threshold}, and no reward of "
                f"{environment.name} is below {least}: set threshold between failure and success, such as 0.5"
            )

    def compute(self, batch: CreditInputs) -> Advantages:
        tokens = SampledTokens.of(batch.mask)
        rewards_N = tokens.take(batch.rewards)
        outcomes_B = tokens.row_sums(rewards_N) - self.threshold
        advantages_B = torch.where(outcomes_B > 0, self.positive * outcomes_B, outcomes_B)
        return Advantages(
            tokens.place(tokens.per_token(advantages_B), like=batch.rewards),
            tokens.place(discounted_sums(rewards_N, tokens.rows_R, 1.0), like=batch.rewards),
        )


@attrs.frozen
class WReinforce(_Signed):
    """The advantage is the score of the episode, and a good score counts with a weight below 1 (W-REINFORCE).

    A = positive * (s - threshold) where s > threshold and s - threshold elsewhere, on every sampled token; s = sum of
    the row's rewards. There is no baseline, and groups are not compared: a group of equal failures trains as well.
    returns: undiscounted rewards to go, in reward units. [B, T], zero off the mask.

    The method is made for rewards 1 and -1. With rewards 1 and 0 a failure is worth 0 and nothing is learnt from it:
    give ``threshold=0.5`` there.

    Source: Zhu et al. 2025 (arXiv 2506.01347), with its weight of 0.1.
    """

    positive: float = attrs.field(default=0.1, validator=NATS)
    """Weight of the episodes whose score is above the threshold."""
    threshold: float = attrs.field(default=0.0, validator=FINITE)
    """Score that divides good from bad, in reward units."""


@attrs.frozen
class Nsr(_Signed):
    """The advantage is the score of the episode where it is bad, and 0 where it is good (NSR).

    A = min(0, s - threshold) on every sampled token. Everything else is as in ``w_reinforce``, which with a weight of 0
    is this: rewards 1 and 0 need ``threshold=0.5``, or nothing trains.

    Source: Zhu et al. 2025 (arXiv 2506.01347).
    """

    threshold: float = attrs.field(default=0.0, validator=FINITE)
    """Score that divides good from bad, in reward units."""
    positive: ClassVar[float] = 0.0  # type: ignore[misc]


@attrs.frozen
class Entrocraft(AdvantageEstimator):
    """The advantage is another estimator's, and only one sign of it is kept while entropy is outside of a moving band.

    With H the mean entropy (nats) of the tokens that train: where H < low only the tokens with A < 0 keep their
    advantage, where H > high only those with A > 0, and within the band all do. The band moves from (low, high) to
    (low_end, high_end) over the run, by the share f of it: low + f (low_end - low), with f = (step + 1) / steps for
    ``linear`` and (1 - cos(pi (step + 1) / steps)) / 2 for ``cosine``. A token without an advantage still counts where
    the loss is averaged. Returns are those of the other estimator. [B, T], zero off the mask.

    Source: Entrocraft, Li et al. 2026 (arXiv 2604.26326); the band is that of the run in its repository's README. That
    code replaces the advantage outside of the band by the raw score of the row (0 where it has the wrong sign), also in
    a group of equal scores; here the other estimator's own advantages are selected, and such a group stays at 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"entropies"})

    low: float = attrs.field(default=0.6, validator=NATS)
    """Entropy in nats below which only bad tokens train, at the start."""
    high: float = attrs.field(default=0.7, validator=NATS)
    """Entropy in nats above which only good tokens train, at the start."""
    low_end: float = attrs.field(default=0.4, validator=NATS)
    """What ``low`` has become in the last step."""
    high_end: float = attrs.field(default=0.5, validator=NATS)
    """What ``high`` has become in the last step."""
    anneal: Literal["linear", "cosine"] = attrs.field(default="linear", validator=in_(("linear", "cosine")))
    """How the band moves."""
    of: Any = component("advantage", "grpo")  # noqa: RUF009 - makes an attrs field
    """The estimator whose advantages are selected."""

    @property
    def target_entropies(self) -> tuple[float, ...]:  # type: ignore[override]
        """The lower ends of the band."""
        return self.low, self.low_end

    def __attrs_post_init__(self) -> None:
        refuse_itself(self, "one band says which sign trains")
        for low, high in (("low", "high"), ("low_end", "high_end")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} must be at most {high}: {getattr(self, low)} > {getattr(self, high)}")

    def band(self, step: int, steps: int) -> tuple[float, float]:
        """Return the lower and the upper end of the band in nats at ``step`` (from 0) of ``steps``."""
        share = min(1.0, (step + 1) / steps)
        if self.anneal == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.low + share * (self.low_end - self.low), self.high + share * (self.high_end - self.high)

    def compute(self, batch: CreditInputs) -> Advantages:
        entropies_N = SampledTokens.of(batch.mask).take(required(batch.entropies, "entropies", "entrocraft"))
        result: Advantages = self.of.component.compute(batch)
        if not len(entropies_N):
            return result
        low, high = self.band(batch.step, batch.steps)
        return attrs.evolve(result, advantages=_kept(result.advantages, float(entropies_N.mean()), low, high))


def _kept(advantages_B_T: Tensor, entropy: float, low: float, high: float) -> Tensor:
    if entropy < low:
        return advantages_B_T.clamp(max=0)
    return advantages_B_T.clamp(min=0) if entropy > high else advantages_B_T
