"""What an optimizer step minimises, written once per token and summed with the weights of the whole step.

``weights`` come from :func:`.aggregation.token_weights` over all rows of the step, so the sum over micro-batches and
ranks is the normalised loss, whatever the partition. Metrics are (sum, count) pairs over tokens, which add up the
same way.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from ....core.components import KlVariant, PolicyLoss, SamplerCorrection, Scores
from ....estimators.kl.weights import importance_weight
from .batch import Batch

Metrics = dict[str, tuple[Tensor, Tensor]]


@attrs.frozen(eq=False)
class PolicyObjective:
    """w * policy loss - entropy_coeff * entropy + kl_coef * KL, a weighted sum over the tokens that train.

    w is the sampler's correction. It weighs the policy loss only: that is the term whose expectation is over the
    sampled token, with the advantage of what was sampled; the entropy is that of the whole distribution, and the KL has
    an importance weight of its own (``kl_weight``). A token that the correction drops still counts in the normalisation
    (``weights`` are those of all tokens), so dropping makes a step smaller and never scales up what is left.
    """

    policy_loss: PolicyLoss
    entropy_coeff: float = 0.0
    kl: KlVariant | None = None
    kl_coef: float = 0.0
    kl_weight: Literal["none", "detached", "differentiable"] = "none"
    correction: SamplerCorrection | None = None
    """Reads ``batch.sampler_logprobs``; ``None`` weighs every token alike."""

    def __call__(self, scores: Scores, batch: Batch) -> tuple[Tensor, Metrics]:
        """``batch.old_logprobs`` may be ``None``: then the sampling policy is the current one and the ratio is 1."""
        loss_B_T, metrics = self.tokens(scores, batch)
        return loss_B_T.sum(), metrics

    def tokens(self, scores: Scores, batch: Batch) -> tuple[Tensor, Metrics]:
        """[B, T]: what each token contributes to the loss, zero where nothing trains."""
        assert scores.logprobs is not None and scores.entropies is not None and batch.weights is not None
        assert batch.advantages is not None
        trains = batch.mask & (batch.weights > 0)
        logprobs = scores.logprobs
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        loss, own_metrics = self.policy_loss(logprobs, old, batch.advantages, trains)
        if self.correction is not None:
            assert batch.sampler_logprobs is not None
            loss = self.correction.correction(old, batch.sampler_logprobs, batch.mask)[0] * loss
        metrics: Metrics = {**own_metrics, "pg_loss": _mean(loss, trains), "entropy": _mean(scores.entropies, trains)}
        if self.entropy_coeff:
            loss = loss - self.entropy_coeff * scores.entropies
        if self.kl is not None:
            assert batch.ref_logprobs is not None
            kl = self.kl(logprobs, batch.ref_logprobs)
            metrics["kl"] = _mean(kl, trains)
            weight = importance_weight(logprobs, old, self.kl_weight)
            loss = loss + self.kl_coef * (kl if weight is None else weight * kl)
        # a where, not a product: a token that does not train must not spread its NaN
        return torch.where(trains, batch.weights * loss, 0.0), metrics


@attrs.frozen(eq=False)
class CriticObjective:
    """Half the squared error to the return, not rewarded for moving further than ``clip_value`` from the old value.

    0.5 * max((v - R)^2, (clip(v, v_old - c, v_old + c) - R)^2), as in PPO (Schulman et al. 2017, OpenAI baselines).
    """

    clip_value: float

    def __call__(self, scores: Scores, batch: Batch) -> tuple[Tensor, Metrics]:
        loss_B_T, metrics = self.tokens(scores, batch)
        return loss_B_T.sum(), metrics

    def tokens(self, scores: Scores, batch: Batch) -> tuple[Tensor, Metrics]:
        """[B, T]: what each token contributes to the loss, zero where nothing trains."""
        assert scores.values is not None and batch.old_values is not None
        assert batch.returns is not None and batch.weights is not None
        trains = batch.mask & (batch.weights > 0)
        near = batch.old_values + (scores.values - batch.old_values).clamp(-self.clip_value, self.clip_value)
        error, clipped_error = (scores.values - batch.returns) ** 2, (near - batch.returns) ** 2
        loss = 0.5 * torch.maximum(error, clipped_error)
        metrics = {
            "vf_loss": _mean(loss, trains),
            "vf_clipfrac": _mean((clipped_error > error).float(), trains),
            "values": _mean(scores.values, trains),
        }
        return torch.where(trains, batch.weights * loss, 0.0), metrics


@attrs.frozen(eq=False)
class JointObjective:
    """policy objective + coef * value loss, where the critic is a head on the policy's trunk; both see one pass.

    Without a policy objective only the value loss is left. The critic's metrics are named ``critic/...``.
    """

    policy: PolicyObjective | None
    critic: CriticObjective
    coef: float

    def __call__(self, scores: Scores, batch: Batch) -> tuple[Tensor, Metrics]:
        loss_B_T, metrics = self.tokens(scores, batch)
        return loss_B_T.sum(), metrics

    def tokens(self, scores: Scores, batch: Batch) -> tuple[Tensor, Metrics]:
        """[B, T]: what each token contributes to the loss, zero where nothing trains."""
        value_loss_B_T, own = self.critic.tokens(scores, batch)
        loss_B_T, metrics = self.coef * value_loss_B_T, {f"critic/{name}": pair for name, pair in own.items()}
        if self.policy is None:
            return loss_B_T, metrics
        policy_loss_B_T, of_policy = self.policy.tokens(scores, batch)
        return policy_loss_B_T + loss_B_T, {**of_policy, **metrics}


def _mean(values: Tensor, mask: Tensor) -> Any:
    return torch.where(mask, values.detach(), 0.0).sum(), mask.sum()
