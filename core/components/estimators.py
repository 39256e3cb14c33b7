"""Protocols of the mathematics of a step: filters, KL, advantages, losses, corrections, standard errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from .data import Advantages, Rollouts
    from .inputs import CreditInputs, LossInputs, LossOutput


class RolloutFilter(Protocol):
    """Kind ``rollout_filter``: which groups train.

    An attribute ``keeps_all`` that is true says that all groups are kept whatever the scores: then none are computed.
    """

    def select(self, scores_P: Tensor) -> Tensor:
        """[P] scores -> [P] bool in the original order. Raises RunError on NaN; may select nothing."""
        ...


class GroupMetric(Protocol):
    """Kind ``group_metric``: one score per group."""

    needs: ClassVar[frozenset[str]]

    def score(self, rollouts: Rollouts) -> Tensor:
        """-> [P] scores in the order of ``rollouts.group_ids_P``."""
        ...


class KlVariant(Protocol):
    """Kind ``kl``: a per-token estimate of KL(policy || reference) from the sampled token's log-probs."""

    value_bias: ClassVar[str]
    gradient_bias: ClassVar[str]

    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        """[B, T], [B, T] -> [B, T] nats, differentiable in ``logprobs``."""
        ...


class KlController(Protocol):
    """Kind ``kl_controller``: how the KL coefficient moves."""

    def start(self, coef: float) -> KlControllerSession: ...


class KlControllerSession(Protocol):
    coef: float

    def update(self, kl: float, episodes: int) -> None:
        """``kl``: mean over sequences of the masked mean token KL in nats; ``episodes``: how many sequences."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class AdvantageEstimator(Protocol):
    """Kind ``advantage``: credit for each sampled token, computed on the whole batch before it is sharded."""

    needs: ClassVar[frozenset[str]]

    def compute(self, batch: CreditInputs) -> Advantages:
        """Advantages and returns [B, T], zero off the mask. What is declared in ``needs`` is in ``batch``."""
        ...


class PolicyLoss(Protocol):
    """Kind ``policy_loss``: the surrogate loss of each token, before any aggregation.

    The loss of a row must not depend on the rows beside it, since they are split into micro-batches and over ranks.
    What couples rows (ranks of tokens, thresholds, counts) goes through the optional ``prepare(batch) -> mapping of
    tensors``: it is called once per optimizer step with all of its rows, without gradient, and each tensor that it
    returns reaches ``inputs.prepared``: [R, T] and [R] for the rows of the micro-batch, a number [] as it is. With
    ``minibatch`` among its ``needs``, ``batch.logprobs`` and ``batch.entropies`` are those of the policy just before
    the optimizer step; otherwise those of the sampling policy where they are known, else the sampler's log-probs.
    """

    def __call__(self, inputs: LossInputs) -> LossOutput:
        """The loss of each token [B, T], zero off the mask, and metrics as (sum, count) pairs that add up."""
        ...


class SamplerCorrection(Protocol):
    """Kind ``sampler_correction``: weights for a sampler whose probabilities are not quite the trainer's.

    They multiply each token's term of the policy loss, beside the policy loss' own ratio policy / old policy, and no
    other term. An attribute ``idle`` that is true says that all weights are 1: then nothing is computed.

    Rows must not depend on each other: the loss asks for those of one forward pass at a time, the metrics are those of
    all rows of the step together.
    """

    def correction(
        self, old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """[B, T] x 3 -> weights [B, T] without gradient, zero off the mask, and metrics.

        ``old_logprobs`` are the trainer's, ``sampler_logprobs`` the engine's, of the same tokens at the same weights.
        """
        ...


class VarianceEstimator(Protocol):
    """Kind ``variance``: the standard error of a stated estimand of the entropy probe, in float64.

    ``needs`` names fields of the terms rather than members of :data:`NEEDS`; the probe runs only the passes that
    somebody needs. Standard errors with different ``estimand`` must not be compared.
    """

    estimand: ClassVar[str]
    needs: ClassVar[frozenset[str]]

    def estimate(self, terms: Any) -> Any:
        """``estimators.variance.terms``: Terms -> Estimate (se, var, estimand, units, n, status, ...).

        Raises RunError if a needed term is missing. Where the terms hold no variance (one prompt, equal or non-finite
        terms) the status says so, and se and var are NaN.
        """
        ...
