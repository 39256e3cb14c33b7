"""The objectives that optimizer steps minimise: a loss for each token, summed with the weights of the whole step.

The weights come from a ``loss_aggregation`` over all rows of the optimizer step, so that the sum over micro-batches and
ranks is the normalised loss, whatever the partition. Metrics are (sum, count) pairs over tokens, which add up in the
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
    """The policy minimises w * policy loss - entropy_coef * entropy + kl_coef * KL, summed over the tokens that train.

    w is the weight of the sampler correction. It multiplies the policy loss only, because only that term is an
    expectation over sampled tokens: the entropy is that of the whole distribution, and the KL has an importance weight
    of its own (``kl_weight``). A token that the correction drops still counts in the normalisation, so that dropping
    tokens makes a step smaller and never scales up the others.
    """

    policy_loss: PolicyLoss
    entropy_coef: float = 0.0
    kl: KlVariant | None = None
    kl_coef: float = 0.0
    kl_weight: Literal["none", "detached", "differentiable"] = "none"
    correction: SamplerCorrection | None = None
    """The sampler correction, which reads ``batch.sampler_logprobs``; ``None`` weighs every token alike."""
    step: int = 0
    """The training step, from 0."""

    def __call__(self, scores: Scores, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return the loss of the micro-batch, and its metrics.

        ``batch.old_logprobs`` may be ``None``: then the sampling policy is the current one and the ratio is 1.
        """
        loss_B_T, metrics = self.tokens(scores, batch)
        return loss_B_T.sum(), metrics

    def tokens(self, scores: Scores, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return what each token contributes to the loss, [B, T], zero where nothing trains, and the metrics."""
        terms, metrics = self._terms(scores, batch)
        loss_B_T, *others = terms.values()
        for term_B_T in others:
            loss_B_T = loss_B_T + term_B_T
        return _weighed(loss_B_T, batch), metrics

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms that the objective has: ``task`` (the policy loss), and ``entropy`` and ``kl`` if any."""
        entropy = ("entropy",) if self.entropy_coef else ()
        return ("task", *entropy, *(("kl",) if self.kl is not None else ()))

    def term(self, name: str, scores: Scores, batch: Batch) -> Tensor:
        """Return what one of :attr:`terms` contributes to the loss at each token: they add up to :meth:`tokens`."""
        return _weighed(self._terms(scores, batch)[0][name], batch)

    def _terms(self, scores: Scores, batch: Batch) -> tuple[dict[str, Tensor], Metrics]:
        """Return each of :attr:`terms` at each token, [B, T], before weights, and the metrics."""
        assert scores.logprobs is not None and scores.entropies is not None and batch.weights is not None
        assert batch.advantages is not None
        trains = batch.mask & (batch.weights > 0)
        logprobs = scores.logprobs
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        inputs = self.inputs(batch, logprobs, old, scores.entropies, trains)
        loss_B_T, of_loss = self.policy_loss(inputs)
        if self.correction is not None:
            assert batch.sampler_logprobs is not None
            loss_B_T = self.correction.correction(old, batch.sampler_logprobs, batch.mask)[0] * loss_B_T
        metrics: Metrics = {
            **of_loss,
            "pg_loss": _mean(loss_B_T, trains),
            "entropy": _mean(scores.entropies, trains),
        }
        terms = {"task": loss_B_T}
        if self.entropy_coef:
            terms["entropy"] = -self.entropy_coef * scores.entropies
        if self.kl is not None:
            assert batch.ref_logprobs is not None
            kl_B_T = self.kl(logprobs, batch.ref_logprobs)
            metrics["kl"] = _mean(kl_B_T, trains)
            weight_B_T = importance_weight(logprobs, old, self.kl_weight)
            terms["kl"] = self.kl_coef * (kl_B_T if weight_B_T is None else weight_B_T * kl_B_T)
        return terms, metrics

    def inputs(
        self, batch: Batch, logprobs: Tensor, old_logprobs: Tensor, entropies: Tensor | None, trains: Tensor
    ) -> LossInputs:
        """Return the inputs of the policy loss for these rows."""
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
        """Return the batch with what the policy loss prepares for an optimizer step on the rows that have a weight.

        Args:
            batch: all rows of the training step, with the weights of this optimizer step; on the CPU.
            current: log-probs and entropies [B, T] of the policy before the optimizer step, where the loss needs them.
        """
        assert batch.weights is not None
        rows = (batch.weights > 0).any(1).nonzero().flatten()
        step = batch.take(rows)
        old = step.sampler_logprobs if step.old_logprobs is None else step.old_logprobs
        assert step.weights is not None and old is not None
        logprobs = old
        entropies = step.old_entropies
        if current is not None:
            assert current.logprobs is not None and current.entropies is not None
            width = step.tokens.shape[1]
            logprobs = current.logprobs[rows, :width]
            entropies = current.entropies[rows, :width]
        inputs = self.inputs(step, logprobs, old, entropies, step.mask & (step.weights > 0))
        with torch.no_grad():
            prepared = self.policy_loss.prepare(inputs)
        return attrs.evolve(batch, prepared=_placed(prepared or {}, rows, batch.mask.shape))


def _placed(prepared: Mapping[str, Tensor], rows: Tensor, shape: torch.Size) -> dict[str, Tensor]:
    """Spread tensors [R, T'] and [R] of some rows over all rows: [B, T] and [B], zero elsewhere. Numbers stay."""
    placed = {}
    for name, value in prepared.items():
        if value.ndim == 0:
            placed[name] = value
            continue
        table = value.new_zeros(shape[: value.ndim])
        if value.ndim == 2:
            table[rows, : value.shape[1]] = value
        else:
            table[rows] = value
        placed[name] = table
    return placed


@attrs.frozen(eq=False)
class CriticObjective:
    """The critic minimises half the squared error to the return, clipped around its old value.

    Moving further than c = ``clip_value`` from the old value is not rewarded: the loss of a token is
    0.5 * max((v - R)^2, (clip(v, v_old - c, v_old + c) - R)^2). Source: PPO (Schulman et al. 2017), as in
    OpenAI baselines.
    """

    clip_value: float

    def __call__(self, scores: Scores, batch: Batch) -> tuple[Tensor, Metrics]:
        loss_B_T, metrics = self.tokens(scores, batch)
        return loss_B_T.sum(), metrics

    def prepare(self, batch: Batch, current: Scores | None) -> Batch:
        """Return the batch as it is: the value loss of a row depends on that row alone."""
        return batch

    def tokens(self, scores: Scores, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return what each token contributes to the loss, [B, T], zero where nothing trains, and the metrics."""
        assert scores.values is not None and batch.old_values is not None
        assert batch.returns is not None and batch.weights is not None
        trains = batch.mask & (batch.weights > 0)
        change_B_T = (scores.values - batch.old_values).clamp(-self.clip_value, self.clip_value)
        error_B_T = (scores.values - batch.returns) ** 2
        clipped_error_B_T = (batch.old_values + change_B_T - batch.returns) ** 2
        loss_B_T = 0.5 * torch.maximum(error_B_T, clipped_error_B_T)
        metrics = {
            "vf_loss": _mean(loss_B_T, trains),
            "vf_clipfrac": _mean((clipped_error_B_T > error_B_T).float(), trains),
            "values": _mean(scores.values, trains),
        }
        return torch.where(trains, batch.weights * loss_B_T, 0.0), metrics


@attrs.frozen(eq=False)
class JointObjective:
    """A policy and a critic on its trunk minimise policy objective + coef * value loss in one forward pass.

    Without a policy objective only the value loss is left. The critic's metrics are named ``critic/...``.
    """

    policy: PolicyObjective | None
    critic: CriticObjective
    coef: float

    def __call__(self, scores: Scores, batch: Batch) -> tuple[Tensor, Metrics]:
        loss_B_T, metrics = self.tokens(scores, batch)
        return loss_B_T.sum(), metrics

    def tokens(self, scores: Scores, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return what each token contributes to the loss, [B, T], zero where nothing trains, and the metrics."""
        value_loss_B_T, of_critic = self.critic.tokens(scores, batch)
        loss_B_T = self.coef * value_loss_B_T
        metrics = {f"critic/{name}": pair for name, pair in of_critic.items()}
        if self.policy is None:
            return loss_B_T, metrics
        policy_loss_B_T, of_policy = self.policy.tokens(scores, batch)
        return policy_loss_B_T + loss_B_T, {**of_policy, **metrics}

    def prepare(self, batch: Batch, current: Scores | None) -> Batch:
        """Return the batch with what the policy loss prepares; see :meth:`PolicyObjective.prepare`."""
        return batch if self.policy is None else self.policy.prepare(batch, current)


def _weighed(loss_B_T: Tensor, batch: Batch) -> Tensor:
    """Return the loss of each token times its weight, zero where nothing trains."""
    assert batch.weights is not None
    trains = batch.mask & (batch.weights > 0)
    # a where, not a product: a token that does not train must not spread its NaN
    return torch.where(trains, batch.weights * loss_B_T, 0.0)


def _mean(values_B_T: Tensor, mask_B_T: Tensor) -> Any:
    """Return the (sum, count) pair of a mean over the mask."""
    return torch.where(mask_B_T, values_B_T.detach(), 0.0).sum(), mask_B_T.sum()
