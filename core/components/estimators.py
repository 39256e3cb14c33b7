"""Base classes of what a step computes: filters, rewards, coefficients, losses, standard errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from .component import Component

if TYPE_CHECKING:
    from torch import Tensor

    from .data import Rollouts
    from .inputs import LossInputs, LossOutput, ShapingInputs


Move = Literal["never", "to_policy", "towards_policy"]
"""How a KL controller moves the reference."""
MOVES: tuple[Move, ...] = get_args(Move)


class RolloutFilter(Component):
    """A rollout filter chooses which groups train. Kind ``rollout_filter``."""

    __slots__ = ()

    @property
    def keeps_all(self) -> bool:
        """Whether every group is kept whatever its score, so that scores need not be computed."""
        return False

    @abstractmethod
    def select(self, scores_P: Tensor) -> Tensor:
        """Return which groups are kept, [P] bool, in the order of ``scores_P``. It may keep none.

        Raises:
            RunError: a score is NaN.
        """


class EpisodeFilter(Component):
    """An episode filter chooses which episodes of the kept groups train. Kind ``episode_filter``.

    It is called after the rollout filter and before any forward pass of the update, so dropped episodes cost none. A
    group without a kept episode is left out; where no group remains, the step trains nothing, as after a rollout filter
    that keeps none. ``filter.loss_scaling`` counts groups before this filter.
    """

    __slots__ = ()

    @property
    def keeps_all(self) -> bool:
        """Whether every episode is always kept, so that :meth:`select` need not be called."""
        return False

    @abstractmethod
    def select(self, rollouts: Rollouts) -> Tensor:
        """Return which episodes are kept, [E] bool, in the order of ``rollouts.raw_rewards_E``. It may keep none.

        ``rollouts`` are the kept groups. They have ``entropies`` if the filter needs them.
        """


class GroupMetric(Component):
    """A group metric gives each group a score, by which the rollout filter chooses. Kind ``group_metric``."""

    __slots__ = ()

    @abstractmethod
    def score(self, rollouts: Rollouts) -> Tensor:
        """Return one finite score for each group, [P], in the order of ``rollouts.group_ids_P``."""


class RewardShaping(Component):
    """A reward shaping changes the rewards of episodes before advantages are computed. Kind ``reward_shaping``.

    It is called once per training step with all episodes, before ``reward.normalization``. Only the advantage
    estimator sees its result: filters, group metrics, detectors and validation read the rewards as they were earned.
    """

    __slots__ = ()

    idle: ClassVar[bool] = False
    """Whether no reward is ever changed, so that :meth:`shape` need not be called."""

    @abstractmethod
    def shape(self, inputs: ShapingInputs) -> Tensor:
        """Return the shaped rewards, [E], finite, in reward units and in the order of ``inputs.rewards_E``.

        The difference to the earned reward is placed on the last sampled token of the episode, also with
        ``reward.placement: turn``.
        """


class KlVariant(Component):
    """A KL variant estimates KL(policy || reference) of a token from its two log-probs. Kind ``kl``."""

    __slots__ = ()

    value_bias: ClassVar[str]
    """A sentence that says how far the expected estimate is from the true KL."""
    gradient_bias: ClassVar[str]
    """A sentence that says how far the expected gradient is from the gradient of the true KL."""

    @abstractmethod
    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        """Return the KL of each token, [B, T] in nats, differentiable in ``logprobs``; both arguments are [B, T]."""


class KlController(Component):
    """A KL controller changes the KL coefficient during a run, and may move the reference. Kind ``kl_controller``."""

    __slots__ = ()

    @property
    def moves_reference(self) -> Move:
        """How :meth:`KlControllerSession.refresh` moves the reference, which decides what memory a run needs.

        ``never``; ``to_policy``, by shares of 1 alone; or ``towards_policy``, by smaller shares too.
        """
        return "never"

    @abstractmethod
    def start(self, coef: float) -> KlControllerSession:
        """Return a session that begins at ``coef`` (``kl.coef``)."""


class KlControllerSession(ABC):
    """A running KL controller."""

    __slots__ = ()

    coef: float
    """The coefficient of the next step."""

    @abstractmethod
    def update(self, kl: float, episodes: int) -> None:
        """Set :attr:`coef` from what was measured in this step, after the update.

        Args:
            kl: the mean over rows of the row's mean token KL, in nats.
            episodes: the number of episodes that trained.
        """

    def refresh(self, step: int) -> float | None:
        """Return the share of the policy that is mixed into the reference now, or ``None`` to leave it as it is.

        With a share s, above 0 and at most 1, every weight of the reference becomes s times the policy's plus 1 - s
        times its own. It is called once after every training step where there is a reference, also if none trained,
        and on every rank, which must all answer the same.

        Args:
            step: the number of steps that are done, from 1.
        """
        return None

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs; what JSON can hold."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""


class EntropyController(Component):
    """An entropy controller changes the coefficient of the entropy bonus during a run. Kind ``entropy_controller``."""

    __slots__ = ()

    idle: ClassVar[bool] = False
    """Whether the coefficient always stays ``entropy.coef``. Then the session is never updated, and no metric shows
    the coefficient."""

    @abstractmethod
    def start(self, coef: float, steps: int) -> EntropyControllerSession:
        """Return a session that begins at ``coef`` (``entropy.coef``), for a run of ``steps`` training steps."""


class EntropyControllerSession(ABC):
    """A running entropy controller."""

    __slots__ = ()

    coef: float
    """The coefficient of the next policy update, per nat. The loss holds the term - coef * mean token entropy, so that
    a positive one raises the entropy and a negative one lowers it."""

    @abstractmethod
    def update(self, entropy: float, step: int) -> None:
        """Set :attr:`coef` for this step's update. It is called once in every step that trains the policy.

        Args:
            entropy: the mean token entropy (nats) of the policy that sampled, over the tokens that train in this step;
                NaN unless ``entropies`` are among the controller's ``needs``.
            step: the training step, from 0.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs; what JSON can hold."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""


class PolicyLoss(Component):
    """A policy loss gives each token its surrogate loss, before losses are aggregated. Kind ``policy_loss``.

    The loss of a row must not depend on the other rows of its micro-batch, since any split of the rows into
    micro-batches and ranks must give the same gradient. Whatever depends on several rows (ranks of tokens, thresholds,
    counts) is computed in :meth:`prepare`.
    """

    __slots__ = ()

    ratio_of: ClassVar[Literal["tokens", "rows"]] = "tokens"
    """Whether the loss has a ratio of each token, or one of the whole row. The latter is refused with a correction that
    weighs single tokens."""
    corrects: ClassVar[bool] = False
    """Whether its ratio is the policy's to the sampler itself, so that no sampler correction may weigh tokens again."""
    spreads: ClassVar[bool] = False
    """Whether the loss of a token has a gradient in the log-probs of other tokens of its row, so that leaving a token
    out does not leave out its gradient."""

    def prepare(self, batch: LossInputs) -> Mapping[str, Tensor] | None:
        """Return what depends on several rows. It is called once per optimizer step, without gradient.

        ``batch`` has all R rows of the optimizer step, of all ranks. Each tensor that is returned stands in
        ``inputs.prepared`` afterwards: of a tensor [R, T] or [R] the rows of the micro-batch, a tensor [] as it is.

        If the loss needs ``minibatch``, ``batch.logprobs`` and ``batch.entropies`` are those of the policy just before
        the optimizer step. Otherwise they are those of the policy that sampled; where it was not scored, log-probs are
        the sampler's own, and entropies are ``None``.
        """
        return None

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> LossOutput:
        """Return the loss of each token, [B, T], zero off the mask, and metrics as (sum, count) pairs."""


class SamplerCorrection(Component):
    """A sampler correction weighs tokens whose probability differs between sampler and trainer.

    Kind ``sampler_correction``. The weight of a token multiplies its policy loss, which has a ratio policy / old policy
    of its own, and no other term of the objective.

    The weights of a row must not depend on other rows: the loss asks for the rows of one forward pass at a time, while
    the metrics are computed on all rows of the step together.
    """

    __slots__ = ()

    idle: ClassVar[bool] = False
    """Whether all weights are 1, so that :meth:`correction` need not be called."""
    weighs: ClassVar[Literal["tokens", "rows"]] = "tokens"
    """Whether tokens of one row have weights of their own, or all the same."""

    @abstractmethod
    def correction(
        self, old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Return weights [B, T] without gradient, not negative and zero off the mask, and metrics.

        Args:
            old_logprobs: [B, T] nats, as the trainer computes them for the policy that sampled.
            sampler_logprobs: [B, T] nats, as the rollout engine reported them for the same tokens.
            mask: [B, T] bool, the sampled tokens.
        """


class LossAggregation(Component):
    """An aggregation turns the losses of all tokens of an optimizer step into one number. Kind ``loss_aggregation``.

    It does so by a weight for each token. All weights are computed at once, from the rows of every micro-batch of every
    rank, so that no split of the rows changes the loss.
    """

    __slots__ = ()

    @abstractmethod
    def weights(self, mask_B_T: Tensor, max_length: int) -> Tensor:
        """Return the weight of each token, [B, T] float32, where the loss is sum(weights * loss_B_T).

        Weights are finite, not negative, and zero off the mask. Neither the order of the rows nor the padding behind
        them may matter. A mask without a token gives weights of 0.

        Args:
            mask_B_T: [B, T] bool, the sampled tokens of all rows of one optimizer step.
            max_length: the largest number of tokens in a row of this run (``rollout.max_context``).
        """


class VarianceEstimator(Component):
    """A variance estimator gives the standard error of a number of the entropy probe, in float64. Kind ``variance``.

    ``needs`` names fields of the terms rather than members of :data:`NEEDS`; the probe runs only the passes that some
    estimator needs. Standard errors with different ``estimand`` must not be compared.
    """

    __slots__ = ()

    estimand: ClassVar[str]
    """The quantity whose standard error it is: what varies, and what stays fixed."""
    needs: ClassVar[frozenset[str]]
    """Names of the fields of the terms that it reads."""

    @abstractmethod
    def estimate(self, terms: Any) -> Any:
        """Return the estimate (se, var, estimand, units, n, status, ...) that ``terms`` give.

        ``terms`` and the result are ``Terms`` and ``Estimate`` of ``estimators.variance.terms``. Where the terms hold
        no variance (one prompt, equal terms, terms that are not finite), its status says so, and se and var are NaN.

        Raises:
            RunError: a needed term is missing.
        """
