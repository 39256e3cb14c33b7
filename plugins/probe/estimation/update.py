"""The loss of the next update is made of a batch U: advantages, weights of tokens, policy loss and KL term.

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
from ....core.compose.named import Named
from ....core.registry import registry
from ....estimators.advantage.reweight import soft_advantage_reweight
from ...training.step.batch import Batch
from ...training.step.losses import PolicyObjective
from ...training.step.stages import credit_inputs, to_batch
from ..config import OWN_WEIGHTINGS
from .passes import Outputs, TokenLoss


@attrs.frozen(eq=False)
class Update:
    """An update holds the rows of U with all that their loss needs."""

    rollouts: Rollouts
    batch: Batch
    objective: PolicyObjective

    @property
    def loss(self) -> TokenLoss:
        """Function that gives the loss of each token; the update minimises its sum over the whole batch."""

        def of_tokens(scores: Outputs, part: Batch) -> Tensor:
            return self.objective.tokens(Scores(**scores), part)[0]

        return of_tokens

    def scaled(self, factor: float) -> Update:
        """Return the update with advantages times ``factor``: -1 rewards what was punished, 0 rewards nothing."""
        assert self.batch.advantages is not None
        batch = attrs.evolve(self.batch, advantages=factor * self.batch.advantages)
        return attrs.evolve(self, batch=self.objective.prepare(batch, None))

    def prompts(self) -> list[list[int]]:
        """Return the rows of each prompt, in the order of :meth:`per_prompt`."""
        groups = self.rollouts.groups
        return [(groups == group).nonzero().flatten().tolist() for group in groups.unique()]

    def per_prompt(self, table_B_T: Tensor) -> Tensor:
        """Return sums over the tokens of each prompt: [M], in the order of the group ids."""
        _, index_B = self.rollouts.groups.unique(return_inverse=True)
        zeros_M = torch.zeros(len(self.rollouts.group_ids_P), dtype=torch.float64)
        return zeros_M.index_add(0, index_B, table_B_T.sum(1))

    def per_sequence(self, table_B_T: Tensor) -> Tensor:
        """Return sums over the tokens of each sequence: [S]."""
        zeros_S = torch.zeros(len(self.rollouts.raw_rewards_E), dtype=torch.float64)
        return zeros_S.index_add(0, self.rollouts.episodes, table_B_T.sum(1))


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
    """Return the update that these rollouts make.

    Args:
        advantage: the session of an advantage estimator, or an estimator without state.
        weighting: weights of tokens; see :func:`weights`, also for ``max_length``.
        ref_logprobs: [B, T] nats of the reference policy, for a KL term in the loss.
        reweight: weight the advantages of each group by the spread of its rewards, as ``soft_advantage_reweight``.
        without_task: all advantages are 0, as with ``zero_task_advantage``.
        credit: further inputs of the estimator: ``values`` [B, T], ``greedy_rewards`` [B], ``step`` and ``steps``.
    """
    advantages_B_T = advantage.compute(credit_inputs(rollouts, **credit)).advantages
    # the order is that of a training step: advantages are reweighted before any is set to 0
    if reweight:
        advantages_B_T = soft_advantage_reweight(
            advantages_B_T, rollouts.groups, rollouts.episodes, rollouts.raw_rewards_E
        )
    batch = attrs.evolve(
        to_batch(rollouts),
        weights=weights(rollouts, weighting, max_length),
        advantages=torch.zeros_like(advantages_B_T) if without_task else advantages_B_T,
        sampler_logprobs=rollouts.logprobs,
        ref_logprobs=ref_logprobs,
        groups=rollouts.groups,
        turns=rollouts.turns,
    )
    return Update(rollouts, objective.prepare(batch, None), objective)


def weights(rollouts: Rollouts, weighting: str, max_length: int | None = None) -> Tensor:
    """Return the share of each token in the loss: [B, T].

    With S responses in all, ``dr_grpo`` is 1 / (S L), where L is the most tokens that a response to the same prompt
    has; ``per_token_avg`` is 1 / (S T) with T the tokens of the response; any other text names a ``loss_aggregation``,
    which weighs rows and is given ``max_length`` tokens, by default T of the batch.
    """
    mask_B_T, groups_S = rollouts.mask, rollouts.groups_of_episodes()
    if weighting not in OWN_WEIGHTINGS:
        weights_B_T: Tensor = aggregation(weighting).component.weights(mask_B_T, max_length or mask_B_T.shape[1])
        return weights_B_T
    lengths_S = torch.zeros(len(groups_S)).index_add(0, rollouts.episodes, mask_B_T.sum(1).float())
    if weighting == "dr_grpo":
        _, index_S = groups_S.unique(return_inverse=True)
        longest_P = torch.zeros(int(index_S.max()) + 1).scatter_reduce(0, index_S, lengths_S, "amax")
        lengths_S = longest_P[index_S]
    return mask_B_T / (len(groups_S) * lengths_S.clamp(min=1))[rollouts.episodes][:, None]


def aggregation(spelled: str) -> Named:
    """Return the ``loss_aggregation`` that is spelled so. Raises Invalid."""
    return structure_component(make_converter(registry()), registry(), "loss_aggregation", spelled)
