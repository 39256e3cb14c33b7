"""These estimators change another one's advantages, by as much as the entropy asks for, and learn how much that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import torch
from attrs.validators import and_, ge, gt, instance_of, le, lt, optional
from torch import Tensor

from ...core.components import AdvantageEstimator, AdvantageEstimatorSession, Advantages, CreditInputs
from ...core.compose.fields import component
from .sampled_tokens import SampledTokens, required

RAREST = -20.0
"""Log-prob (nats) below which a token counts as no rarer."""
POSITIVE = and_(gt(0.0), lt(math.inf))
NOT_NEGATIVE = and_(ge(0.0), lt(math.inf))


def mean_entropy(batch: CreditInputs, estimator: str) -> float | None:
    """Return the mean entropy of the tokens that train, in nats; ``None`` where no token does."""
    entropies_N = SampledTokens.of(batch.mask).take(required(batch.entropies, "entropies", estimator))
    return float(entropies_N.mean()) if len(entropies_N) else None


@attrs.frozen
class Entropic(AdvantageEstimator):
    """The advantage is another estimator's, with good and bad tokens weighed against each other to hold the entropy.

    With e = H - target, H the mean entropy (nats) of the tokens that train: a token with A > 0 is weighed by 1 + alpha,
    one with A < 0 by 1 - alpha, and alpha = clip(kp e + ki (sum of e over the steps before), -limit, limit). Low
    entropy weighs failures more, which raises it. Returns are those of the other estimator. [B, T], zero off the mask.

    Units: ``kp`` and ``ki`` per nat. Source: the function ``entropic`` of Entrocraft's repository, with its constants
    1 and 0.01, after EntroPIC (arXiv 2511.15248). That code weighs the raw scores of episodes and does not bound alpha,
    so that a weight can become negative and turn its gradient around; here it weighs the advantages of any estimator.
    While alpha stands at its limit, the sum does not grow beyond it.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"entropies"})
    in_comparison: ClassVar[Mapping[str, Any]] = {"target": 0.2}

    target: float = attrs.field(validator=POSITIVE)
    """Entropy to keep, in nats per token."""
    kp: float = attrs.field(default=1.0, validator=NOT_NEGATIVE)
    """Weight of this step's error."""
    ki: float = attrs.field(default=0.01, validator=NOT_NEGATIVE)
    """Weight of the sum of all errors before."""
    limit: float = attrs.field(default=1.0, validator=and_(gt(0.0), le(1.0)))
    """Largest alpha, of either sign; 1 makes the smallest weight 0."""
    of: Any = component("advantage", "grpo")  # noqa: RUF009 - makes an attrs field
    """The estimator whose advantages are weighed."""

    def __attrs_post_init__(self) -> None:
        if self.kp == 0 == self.ki:
            raise ValueError("kp and ki are both 0: all weights would be 1")

    def compute(self, batch: CreditInputs) -> Advantages:
        return self.start().compute(batch)

    def start(self) -> EntropicSession:
        return EntropicSession(self)


@attrs.define
class EntropicSession(AdvantageEstimatorSession):
    """The session of ``entropic``."""

    rule: Entropic
    errors: float = 0.0
    """Sum of the errors of the steps that are done, in nats."""
    alpha: float = 0.0
    """Alpha of the last step."""

    def compute(self, batch: CreditInputs) -> Advantages:
        result: Advantages = self.rule.of.component.compute(batch)
        entropy = mean_entropy(batch, "entropic")
        if entropy is None:
            return result
        self._move(entropy - self.rule.target)
        advantages = result.advantages
        weights = torch.where(advantages > 0, 1.0 + self.alpha, 1.0 - self.alpha).to(advantages)
        return attrs.evolve(result, advantages=advantages * weights)

    def _move(self, error: float) -> None:
        rule = self.rule
        wanted = rule.kp * error + rule.ki * self.errors
        self.alpha = min(max(wanted, -rule.limit), rule.limit)
        # beyond a limit the sum may only come back
        if not (wanted > rule.limit and error > 0) and not (wanted < -rule.limit and error < 0):
            self.errors += error

    def metrics(self) -> dict[str, float]:
        return {"alpha": self.alpha}

    def state_dict(self) -> dict[str, Any]:
        return {"errors": self.errors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.errors = float(state["errors"])


@attrs.frozen
class Repo(AdvantageEstimator):
    """The advantage is another estimator's, made larger for rare good tokens and smaller for rare bad ones (REPO-R).

    A' = A max(0, 1 - zeta log p) where A > 0, and A max(0, 1 + zeta log p) where A < 0; p is the probability of the
    token under the policy that sampled, at least e^-20. At each step with mean entropy H (nats) of the tokens that
    train: where H < target, zeta doubles, up to ``high``, or halves if it is negative; where H > target, it halves, or
    doubles if it is negative, down to -high. An abs(zeta) below ``low`` becomes ``low`` with the other sign. Returns
    are those of the other estimator. [B, T], zero off the mask.

    Source: REPO, Petrenko et al. 2026 (arXiv 2603.11682), appendix D.2, with its bounds and its target, the entropy at
    the beginning; formula, rule and the first zeta as in the implementation for SkyRL (pull request 1896). There log p
    is of the policy at each optimizer step, and the entropy that of the update before, so that zeta comes a step later.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logprobs", "entropies"})

    zeta: float = attrs.field(default=0.001, validator=and_(gt(-math.inf), lt(math.inf)))
    """Weight of log p at the start, per nat. A positive one raises the entropy."""
    target: float | None = attrs.field(default=None, validator=optional(POSITIVE))
    """Entropy to keep, in nats per token; by default that of the first step."""
    low: float = attrs.field(default=1e-4, validator=POSITIVE)
    """Smallest abs(zeta)."""
    high: float = attrs.field(default=0.05, validator=POSITIVE)
    """Largest abs(zeta)."""
    adapt: bool = attrs.field(default=True, validator=instance_of(bool))
    """Whether zeta moves; with ``false``, ``target``, ``low`` and ``high`` have no effect."""
    of: Any = component("advantage", "grpo")  # noqa: RUF009 - makes an attrs field
    """The estimator whose advantages are changed."""

    def __attrs_post_init__(self) -> None:
        if self.zeta == 0:
            raise ValueError("zeta must not be 0: nothing would change")
        if self.adapt and not self.low <= abs(self.zeta) <= self.high:
            raise ValueError(f"abs(zeta) must lie between low and high: {self.low}, {abs(self.zeta)}, {self.high}")

    def moved(self, zeta: float, entropy: float, target: float) -> float:
        """Return the next zeta, after a step with this mean entropy (nats)."""
        if entropy == target:
            return zeta
        wanted = 1.0 if entropy < target else -1.0
        if zeta * wanted > 0:
            return wanted * min(2.0 * abs(zeta), self.high)
        return wanted * self.low if abs(zeta) / 2 < self.low else zeta / 2

    def compute(self, batch: CreditInputs) -> Advantages:
        return self.start().compute(batch)

    def start(self) -> RepoSession:
        return RepoSession(self, self.zeta, self.target)


@attrs.define
class RepoSession(AdvantageEstimatorSession):
    """The session of ``repo``."""

    rule: Repo
    zeta: float
    target: float | None
    """Entropy to keep, in nats; ``None`` until a first step has shown its own."""

    def compute(self, batch: CreditInputs) -> Advantages:
        result: Advantages = self.rule.of.component.compute(batch)
        entropy = mean_entropy(batch, "repo")
        if entropy is None:
            return result
        if self.target is None:
            self.target = entropy
        if self.rule.adapt:
            self.zeta = self.rule.moved(self.zeta, entropy, self.target)
        logprobs_B_T = required(batch.logprobs, "logprobs", "repo")
        return attrs.evolve(result, advantages=_rescaled(result.advantages, logprobs_B_T, batch.mask, self.zeta))

    def metrics(self) -> dict[str, float]:
        return {"zeta": self.zeta}

    def state_dict(self) -> dict[str, Any]:
        return {"zeta": self.zeta, "target": self.target}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.zeta, self.target = float(state["zeta"]), state["target"]


def _rescaled(advantages_B_T: Tensor, logprobs_B_T: Tensor, mask_B_T: Tensor, zeta: float) -> Tensor:
    rarity_B_T = torch.where(mask_B_T, logprobs_B_T.detach().clamp(min=RAREST), 0.0).to(advantages_B_T)
    signed_B_T = torch.where(advantages_B_T > 0, -rarity_B_T, rarity_B_T)
    return advantages_B_T * (1.0 + zeta * signed_B_T).clamp(min=0.0)
