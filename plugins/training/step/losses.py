"""What an optimizer step minimises, written once per token and summed with the weights of the whole step.

``weights`` come from a ``loss_aggregation`` over all rows of the step, so the sum over micro-batches and
ranks is the normalised loss, whatever the partition. Metrics are (sum, count) pairs over tokens, which add up the
same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from ....core.components import KlVariant, LossInputs, PolicyLoss, SamplerCorrection, Scores
from ....estimators.kl.weights import importance_weight
from .batch import Batch

Metrics = dict[str, tuple[Tensor, Tensor]]


@attrs.frozen(eq=False)
class PolicyObjective:
    """w * policy loss - entropy_coef * entropy + kl_coef * KL, a weighted sum over the tokens that train.

    w is the sampler's correction. It weighs the policy loss only: that is the term whose expectation is over the
    sampled token, with the advantage of what was sampled; the entropy is that of the whole distribution, and the KL has
    an importance weight of its own (``kl_weight``). A token that the correction drops still counts in the normalisation
    (``weights`` are those of all tokens), so dropping makes a step smaller and never scales up what is left.
    """

    policy_loss: PolicyLoss
    entropy_coef: float = 0.0
    kl: KlVariant | None = None
    kl_coef: float = 0.0
    kl_weight: Literal["none", "detached", "differentiable"] = "none"
    correction: SamplerCorrection | None = None
    """Reads ``batch.sampler_logprobs``; ``None`` weighs every token alike."""
    step: int = 0
    """The training step, from 0."""

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
        loss, own_metrics = self.policy_loss(self.inputs(batch, logprobs, old, scores.entropies, trains))
        if self.correction is not None:
            assert batch.sampler_logprobs is not None
            loss = self.correction.correction(old, batch.sampler_logprobs, batch.mask)[0] * loss
        metrics: Metrics = {**own_metrics, "pg_loss": _mean(loss, trains), "entropy": _mean(scores.entropies, trains)}
        if self.entropy_coef:
            loss = loss - self.entropy_coef * scores.entropies
        if self.kl is not None:
            assert batch.ref_logprobs is not None
            kl = self.kl(logprobs, batch.ref_logprobs)
            metrics["kl"] = _mean(kl, trains)
            weight = importance_weight(logprobs, old, self.kl_weight)
            loss = loss + self.kl_coef * (kl if weight is None else weight * kl)
        # a where, not a product: a token that does not train must not spread its NaN
        return torch.where(trains, batch.weights * loss, 0.0), metrics

    def inputs(
        self, batch: Batch, logprobs: Tensor, old_logprobs: Tensor, entropies: Tensor | None, trains: Tensor
    ) -> LossInputs:
        """What the policy loss is given of these rows."""
        assert batch.advantages is not None
        return LossInputs(
            logprobs=logprobs,
            old_logprobs=old_logprobs,
            advantages=batch.advantages,
            mask=trains,
            entropies=entropies,
            sampler_logprobs=batch.sampler_logprobs,
            ref_logprobs=batch.ref_logprobs,
            groups=batch.groups,
            turns=batch.turns,
            rows=batch.rows,
            prepared=batch.prepared,
            step=self.step,
        )

    def prepare(self, batch: Batch, current: Scores | None) -> Batch:
        """The batch with what the policy loss prepares for an optimizer step on the rows that have a weight.

        Args:
            batch: all rows of the training step, with the weights of this optimizer step; on the CPU.
            current: log-probs and entropies [B, T] of the policy before the optimizer step, where the loss needs them.
        """
        assert batch.weights is not None
        rows = (batch.weights > 0).any(1).nonzero().flatten()
        step = batch.take(rows)
        old = step.sampler_logprobs if step.old_logprobs is None else step.old_logprobs
        assert step.weights is not None and old is not None
        logprobs, entropies = old, step.old_entropies
        if current is not None:
            width = step.tokens.shape[1]
            assert current.logprobs is not None and current.entropies is not None
            logprobs, entropies = current.logprobs[rows, :width], current.entropies[rows, :width]
        inputs = self.inputs(step, logprobs, old, entropies, step.mask & (step.weights > 0))
        with torch.no_grad():
            prepared = self.policy_loss.prepare(inputs)
        return attrs.evolve(batch, prepared=_placed(prepared or {}, rows, batch.mask.shape))


def _placed(prepared: Mapping[str, Tensor], rows: Tensor, shape: torch.Size) -> dict[str, Tensor]:
    """[R, T'] and [R] of some rows -> [B, T] and [B] of all of them, zero elsewhere; numbers stay as they are."""
    placed = {}
    for name, value in prepared.items():
        if value.ndim:
            table = value.new_zeros(shape[: value.ndim])
            if value.ndim == 2:
                table[rows, : value.shape[1]] = value
            else:
                table[rows] = value
            placed[name] = table
        else:
            placed[name] = value
    return placed


@attrs.frozen(eq=False)
class CriticObjective:
    """Half the squared error to the return, not rewarded for moving further than ``clip_value`` from the old value.

    0.5 * max((v - R)^2, (clip(v, v_old - c, v_old + c) - R)^2), as in PPO (Schulman et al. 2017, OpenAI baselines).
    """

    clip_value: float

    def __call__(self, scores: Scores, batch: Batch) -> tuple[Tensor, Metrics]:
        loss_B_T, metrics = self.tokens(scores, batch)
        return loss_B_T.sum(), metrics

    def prepare(self, batch: Batch, current: Scores | None) -> Batch:
        """Nothing couples the rows of a value loss."""
        return batch

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

    def prepare(self, batch: Batch, current: Scores | None) -> Batch:
        """What the policy loss prepares; see :meth:`PolicyObjective.prepare`."""
        return batch if self.policy is None else self.policy.prepare(batch, current)


def _mean(values: Tensor, mask: Tensor) -> Any:
    return torch.where(mask, values.detach(), 0.0).sum(), mask.sum()
