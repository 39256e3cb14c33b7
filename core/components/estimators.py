"""Base classes of the mathematics of a step: filters, rewards, coefficients, advantages, losses, standard errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from .component import Component

if TYPE_CHECKING:
    from torch import Tensor

    from .data import Advantages, Rollouts
    from .inputs import CreditInputs, LossInputs, LossOutput, ShapingInputs


class RolloutFilter(Component):
    """Kind ``rollout_filter``: which groups train."""

    __slots__ = ()

    @property
    def keeps_all(self) -> bool:
        """Whether every group is kept whatever the scores, so that nobody needs to compute them."""
        return False

    @abstractmethod
    def select(self, scores_P: Tensor) -> Tensor:
        """[P] scores -> [P] bool in the original order. Raises RunError on NaN; may select nothing."""


class EpisodeFilter(Component):
    """Kind ``episode_filter``: which episodes train, of the groups that the rollout filter has kept.

    It is asked after the rollout filter and before anything is computed for the update: what it drops costs no pass. A
    group that is left without an episode is gone; where none is left, the step trains nothing, as after an empty
    rollout filter. ``filter.loss_scaling`` goes by groups, whatever is dropped here.
    """

    __slots__ = ()

    @property
    def keeps_all(self) -> bool:
        """Whether every episode is kept whatever it is like, so that nobody needs to ask."""
        return False

    @abstractmethod
    def select(self, rollouts: Rollouts) -> Tensor:
        """-> [E] bool in the order of ``rollouts.raw_rewards_E``; may select nothing.

        ``rollouts`` are the kept groups, with ``entropies`` where they are among its ``needs``.
        """


class GroupMetric(Component):
    """Kind ``group_metric``: one score per group."""

    __slots__ = ()

    @abstractmethod
    def score(self, rollouts: Rollouts) -> Tensor:
        """-> [P] scores in the order of ``rollouts.group_ids_P``."""


class RewardShaping(Component):
    """Kind ``reward_shaping``: from the rewards of episodes to those that advantages see.

    It is asked once per training step, of all its episodes, before ``reward.normalization``. Filters, group metrics,
    detectors and validation go on with the rewards as they were earned.
    """

    __slots__ = ()

    idle: ClassVar[bool] = False
    """Whether every reward stays what it is, so that nothing needs to be computed."""

    @abstractmethod
    def shape(self, inputs: ShapingInputs) -> Tensor:
        """-> [E] finite rewards, in reward units and in the order of ``inputs.rewards_E``.

        What it adds stands on the last sampled token of the episode, also with ``reward.placement: turn``.
        """


class KlVariant(Component):
    """Kind ``kl``: a per-token estimate of KL(policy || reference) from the sampled token's log-probs."""

    __slots__ = ()

    value_bias: ClassVar[str]
    gradient_bias: ClassVar[str]

    @abstractmethod
    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        """[B, T], [B, T] -> [B, T] nats, differentiable in ``logprobs``."""


class KlController(Component):
    """Kind ``kl_controller``: how the KL coefficient moves."""

    __slots__ = ()

    @abstractmethod
    def start(self, coef: float) -> KlControllerSession: ...


class KlControllerSession(ABC):
    """A running KL controller."""

    __slots__ = ()

    coef: float
    """The coefficient of the next step."""

    @abstractmethod
    def update(self, kl: float, episodes: int) -> None:
        """``kl``: mean over sequences of the masked mean token KL in nats; ``episodes``: how many sequences."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class EntropyController(Component):
    """Kind ``entropy_controller``: how the coefficient of the entropy bonus moves."""

    __slots__ = ()

    idle: ClassVar[bool] = False
    """Whether the coefficient stays ``entropy.coef``: then nobody is told of the entropy, and no metric is written."""

    @abstractmethod
    def start(self, coef: float, steps: int) -> EntropyControllerSession:
        """A session that begins at ``coef`` (``entropy.coef``), in a run of ``steps`` training steps."""


class EntropyControllerSession(ABC):
    """A running entropy controller."""

    __slots__ = ()

    coef: float
    """The coefficient of the next policy update, per nat: the loss is ... - coef * mean token entropy.

    A negative one takes entropy away.
    """

    @abstractmethod
    def update(self, entropy: float, step: int) -> None:
        """Called once in every step that trains the policy, before :attr:`coef` is read for that step's update.

        Args:
            entropy: mean token entropy in nats of the policy that sampled, over the tokens that are about to train;
                NaN unless the controller has ``entropies`` among its ``needs``, for which that policy is scored.
            step: the training step, from 0.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class AdvantageEstimator(Component):
    """Kind ``advantage``: credit for each sampled token, computed on the whole batch before it is sharded."""

    __slots__ = ()

    @abstractmethod
    def compute(self, batch: CreditInputs) -> Advantages:
        """Advantages and returns [B, T], zero off the mask. What is declared in ``needs`` is in ``batch``."""


class PolicyLoss(Component):
    """Kind ``policy_loss``: the surrogate loss of each token, before any aggregation.

    The loss of a row must not depend on the rows beside it, since they are split into micro-batches and over ranks.
    What couples rows (ranks of tokens, thresholds, counts) goes through :meth:`prepare`.
    """

    __slots__ = ()

    def prepare(self, batch: LossInputs) -> Mapping[str, Tensor] | None:
        """What couples rows: called once per optimizer step with all of its rows, without gradient.

        Each tensor that it returns reaches ``inputs.prepared``: [R, T] and [R] for the rows of the micro-batch, a
        number [] as it is. With ``minibatch`` among its ``needs``, ``batch.logprobs`` and ``batch.entropies`` are those
        of the policy just before the optimizer step; otherwise those of the sampling policy where they are known, else
        the sampler's log-probs.
        """
        return None

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> LossOutput:
        """The loss of each token [B, T], zero off the mask, and metrics as (sum, count) pairs that add up."""


class SamplerCorrection(Component):
    """Kind ``sampler_correction``: weights for a sampler whose probabilities are not quite the trainer's.

    They multiply each token's term of the policy loss, beside the policy loss' own ratio policy / old policy, and no
    other term.

    Rows must not depend on each other: the loss asks for those of one forward pass at a time, the metrics are those of
    all rows of the step together.
    """

    __slots__ = ()

    idle: ClassVar[bool] = False
    """Whether all weights are 1, so that nothing needs to be computed."""

    @abstractmethod
    def correction(
        self, old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """[B, T] x 3 -> weights [B, T] without gradient, zero off the mask, and metrics.

        ``old_logprobs`` are the trainer's, ``sampler_logprobs`` the engine's, of the same tokens at the same weights.
        """


class LossAggregation(Component):
    """Kind ``loss_aggregation``: how the losses of all tokens of an optimizer step become one number.

    The weights are computed once, from the rows of every micro-batch of every rank, and travel with the rows: so no
    split of the rows changes the loss.
    """

    __slots__ = ()

    @abstractmethod
    def weights(self, mask_B_T: Tensor, max_length: int) -> Tensor:
        """[B, T] float32 weights, finite, not negative and zero off the mask: loss = sum(weights * loss_B_T).

        ``mask_B_T`` has the sampled tokens of all rows of one optimizer step; their order and what padding stands
        behind them must not matter, and where it is empty all weights are 0. ``max_length`` is the most tokens that a
        row of the run can have (``rollout.max_context``).
        """


class VarianceEstimator(Component):
    """Kind ``variance``: the standard error of a stated estimand of the entropy probe, in float64.

    ``needs`` names fields of the terms rather than members of :data:`NEEDS`; the probe runs only the passes that
    somebody needs. Standard errors with different ``estimand`` must not be compared.
    """

    __slots__ = ()

    estimand: ClassVar[str]
    needs: ClassVar[frozenset[str]]

    @abstractmethod
    def estimate(self, terms: Any) -> Any:
        """``estimators.variance.terms``: Terms -> Estimate (se, var, estimand, units, n, status, ...).

        Raises RunError if a needed term is missing. Where the terms hold no variance (one prompt, equal or non-finite
        terms) the status says so, and se and var are NaN.
        """
