"""The loss that the next update minimises, from an update batch U: advantages, weights of tokens, policy loss, KL term.

By default the gradient of Dr. GRPO: with A the reward less the mean over the responses to the same prompt, and L the
longest of these responses, J = mean over prompts and responses of A / L * (log-prob of the response). One optimizer
step on-policy: the importance ratio is 1, so nothing is clipped.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from ....core.components import Rollouts, Scores
from ....core.compose.converter import make_converter, structure_component
from ....core.compose.experiment import Named
from ....core.registry import registry
from ....estimators.advantage.reweight import soft_advantage_reweight
from ...training.step.batch import Batch
from ...training.step.losses import PolicyObjective
from ...training.step.stages import credit_inputs, to_batch
from ..config import OWN_WEIGHTINGS
from .passes import Outputs, TokenLoss


@attrs.frozen(eq=False)
class Update:
    """The rows of U with all that their loss needs."""

    rollouts: Rollouts
    batch: Batch
    objective: PolicyObjective

    @property
    def loss(self) -> TokenLoss:
        """The loss of each token, of which the whole batch's sum is minimised."""

        def of_tokens(scores: Outputs, part: Batch) -> Tensor:
            return self.objective.tokens(Scores(**scores), part)[0]

        return of_tokens

    def scaled(self, factor: float) -> Update:
        """The same with advantages multiplied: -1 turns the task around, 0 leaves none."""
        assert self.batch.advantages is not None
        batch = attrs.evolve(self.batch, advantages=factor * self.batch.advantages)
        return attrs.evolve(self, batch=self.objective.prepare(batch, None))

    def prompts(self) -> list[list[int]]:
        """The rows of each prompt, in the order of :meth:`per_prompt`."""
        groups = self.rollouts.groups
        return [(groups == group).nonzero().flatten().tolist() for group in groups.unique()]

    def per_prompt(self, of_tokens: Tensor) -> Tensor:
        """[M]: sums over the tokens of each prompt of a [B, T] table, in the order of the group ids."""
        _, index = self.rollouts.groups.unique(return_inverse=True)
        sums = torch.zeros(len(self.rollouts.group_ids_P), dtype=torch.float64)
        return sums.index_add(0, index, of_tokens.sum(1))

    def per_sequence(self, of_tokens: Tensor) -> Tensor:
        """[S]: sums over the tokens of each sequence of a [B, T] table."""
        sums = torch.zeros(len(self.rollouts.raw_rewards_E), dtype=torch.float64)
        return sums.index_add(0, self.rollouts.episodes, of_tokens.sum(1))


def make_update(
    rollouts: Rollouts,
    *,
    advantage: Any,
    objective: PolicyObjective,
    weighting: str = "dr_grpo",
    max_length: int | None = None,
    ref_logprobs: Tensor | None = None,
    reweight: bool = False,
    without_task: bool = False,
    **credit: Any,
) -> Update:
    """The update that these rollouts make.

    Args:
        advantage: an advantage estimator.
        weighting: of tokens; see :func:`weights`, also for ``max_length``.
        ref_logprobs: [B, T] of the reference policy, for a KL term in the loss.
        reweight: weight the advantages of each group by the spread of its rewards, as ``soft_advantage_reweight``.
        without_task: all advantages are 0, as with ``zero_task_advantage``.
        credit: what the estimator is given beside: ``values`` [B, T], ``greedy_rewards`` [B], ``step`` and ``steps``.
    """
    result = advantage.compute(credit_inputs(rollouts, **credit))
    advantages = result.advantages
    if reweight:
        advantages = soft_advantage_reweight(advantages, rollouts.groups, rollouts.episodes, rollouts.raw_rewards_E)
    batch = attrs.evolve(
        to_batch(rollouts),
        weights=weights(rollouts, weighting, max_length),
        advantages=torch.zeros_like(advantages) if without_task else advantages,
        sampler_logprobs=rollouts.logprobs,
        ref_logprobs=ref_logprobs,
        groups=rollouts.groups,
        turns=rollouts.turns,
    )
    return Update(rollouts, objective.prepare(batch, None), objective)


def weights(rollouts: Rollouts, weighting: str, max_length: int | None = None) -> Tensor:
    """[B, T]: the share of each token in the loss.

    With S responses in all: ``dr_grpo`` 1 / (S L), L the most tokens that a response to the same prompt has;
    ``per_token_avg`` 1 / (S T) with T the response's own; any other names a ``loss_aggregation``, by row, which is
    given ``max_length`` tokens, by default T of the batch.
    """
    mask, groups = rollouts.mask, rollouts.groups_of_episodes()
    if weighting not in OWN_WEIGHTINGS:
        weights_B_T: Tensor = aggregation(weighting).component.weights(mask, max_length or mask.shape[1])
        return weights_B_T
    lengths = torch.zeros(len(groups)).index_add(0, rollouts.episodes, mask.sum(1).float())
    if weighting == "dr_grpo":
        _, index = groups.unique(return_inverse=True)
        longest = torch.zeros(int(index.max()) + 1).scatter_reduce(0, index, lengths, "amax")
        lengths = longest[index]
    return mask / (len(groups) * lengths.clamp(min=1))[rollouts.episodes][:, None]


def aggregation(spelled: str) -> Named:
    """The ``loss_aggregation`` of that name. Raises Invalid."""
    return structure_component(make_converter(registry()), registry(), "loss_aggregation", spelled)
