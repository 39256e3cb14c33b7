"""These estimators compare the outcome of an episode with those of its group, and need no critic."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import attrs
import torch
from attrs.validators import and_, ge, in_, instance_of, lt
from torch import Tensor

from ...core.components import AdvantageEstimator, Advantages, CreditInputs
from ..groups import group_count, group_index, group_mean, group_sum
from .sampled_tokens import SampledTokens, discounted_sums


@attrs.frozen(eq=False)
class Outcomes:
    """Outcomes are the scores of a batch: of E episodes in P groups, in the B' rows that have sampled tokens.

    The rows of an episode all carry its reward, unless turns are rewarded row by row or a KL term is in the reward.
    Every episode has the same share in mean and std, and divides it equally among its rows.
    """

    scores_B: Tensor
    """[B'] float64: sum of the rewards on the row's sampled tokens."""
    lengths_B: Tensor
    """[B'] int64: sampled tokens of the row."""
    episode_B: Tensor
    """[B'] int64: the row's episode, an index into E."""
    index_E: Tensor
    """[E] int64: the episode's group, an index into P."""
    P: int

    @classmethod
    def of(cls, tokens: SampledTokens, rewards_B_T: Tensor, groups_B: Tensor, episodes_B: Tensor | None) -> Outcomes:
        """Sum the rewards of each row; without ``episodes_B`` each row is an episode."""
        sampled_B = tokens.lengths_B > 0
        scores_B = tokens.row_sums(tokens.take(rewards_B_T))
        # rounded to the rewards' own precision, so that 0.1 + 0.2 + 0.3 equals 0.6
        scores_B = scores_B.to(torch.promote_types(rewards_B_T.dtype, torch.float32)).double()
        if episodes_B is None:
            episodes_B = torch.arange(len(groups_B), device=groups_B.device)
        ids_P, index_B = group_index(groups_B[sampled_B])
        # an episode is a pair of group and episode, so that equal episode ids of two groups stay apart
        pairs_2_B = torch.stack([index_B, episodes_B[sampled_B]])
        pairs_2_E, episode_B = torch.unique(pairs_2_B, dim=1, return_inverse=True)
        return cls(scores_B[sampled_B], tokens.lengths_B[sampled_B], episode_B, pairs_2_E[0], len(ids_P))

    @property
    def n_P(self) -> Tensor:
        """Number of episodes of each group, [P] int64."""
        return group_count(self.index_E, self.P)

    def per_row(self, x_P: Tensor) -> Tensor:
        """Give each row the value of its group: [B']."""
        return x_P[self.index_E[self.episode_B]]

    def episode_mean(self, x_B: Tensor) -> Tensor:
        """Average over the rows of each episode: [E]."""
        return group_mean(x_B, self.episode_B, len(self.index_E))

    def mean_P(self) -> Tensor:
        """Average the scores of the episodes of each group: [P]."""
        return group_mean(self.episode_mean(self.scores_B), self.index_E, self.P)

    def std_P(self, ddof: int) -> Tensor:
        """Compute the standard deviation of the scores of each group: [P], exactly 0 where all are equal."""
        squares_E = self.episode_mean((self.scores_B - self.per_row(self.mean_P())).square())
        return (group_sum(squares_E, self.index_E, self.P) / (self.n_P - ddof).clamp(min=1)).sqrt()

    def above(self, baseline_P: Tensor) -> Tensor:
        """Return how far each row's score is above the baseline of its group: [B'], 0 in a group of one episode."""
        return torch.where(self.per_row(self.n_P) > 1, self.scores_B - self.per_row(baseline_P), 0.0)


def credit_rows(batch: CreditInputs, row_advantages: Callable[[Outcomes], Tensor]) -> Advantages:
    """Give all sampled tokens of a row one advantage, which ``row_advantages`` computes: outcomes -> [B'].

    The returns are undiscounted rewards to go.
    """
    tokens = SampledTokens.of(batch.mask)
    advantages_B = row_advantages(Outcomes.of(tokens, batch.rewards, batch.groups, batch.episodes))
    advantages_N = advantages_B.repeat_interleave(tokens.rows_R)
    return Advantages(
        tokens.place(advantages_N, like=batch.rewards),
        tokens.place(discounted_sums(tokens.take(batch.rewards), tokens.rows_R, 1.0), like=batch.rewards),
    )


class GroupEstimator(AdvantageEstimator):
    """The base of the estimators whose advantage is one number per row, the same on all of its sampled tokens."""

    __slots__ = ()
    needs: ClassVar[frozenset[str]] = frozenset({"groups"})

    def compute(self, batch: CreditInputs) -> Advantages:
        return credit_rows(batch, self.row_advantages)

    @abstractmethod
    def row_advantages(self, outcomes: Outcomes) -> Tensor:
        """Return the advantage of each row that has sampled tokens: [B']."""


@attrs.frozen
class Grpo(GroupEstimator):
    """The advantage is the score of the episode, standardised within its group.

    A = (s - mean) / (std + eps) on every sampled token, s = sum of the row's rewards; mean and std are those of the
    group, where each episode counts once however many rows it has. returns: undiscounted rewards to go, in reward
    units (verl 0.6.1 puts the advantages there). [B, T], zero off the mask.

    A group whose scores are all equal gets exactly 0, and so does a group of one: without another episode there is
    nothing to compare with (verl 0.6.1 and RAGEN-2 use mean 0 and std 1 there, so that A is the raw score).

    Source: DeepSeekMath (arXiv 2402.03300); std with ddof 1 and eps 1e-6 as in verl 0.6.1 (OpenRLHF 1e-9, TRL 1e-4).
    """

    scale: bool = attrs.field(default=True, validator=instance_of(bool))
    """Whether to divide by the std; ``false`` is ``dr_grpo``."""
    eps: float = attrs.field(default=1e-6, validator=and_(ge(0.0), lt(math.inf)))
    """Number added to the std, in reward units."""
    ddof: int = attrs.field(default=1, validator=in_((0, 1)))
    """Degrees of freedom that are taken off the number of episodes in the std: 0 or 1."""

    def row_advantages(self, outcomes: Outcomes) -> Tensor:
        above_B = outcomes.above(outcomes.mean_P())
        if not self.scale:
            return above_B
        std_P = outcomes.std_P(self.ddof)
        # where std is 0, so is every score above the mean; even an eps of 0 then divides nothing by nothing
        return above_B / outcomes.per_row(torch.where(std_P > 0, std_P + self.eps, 1.0))


@attrs.frozen
class DrGrpo(GroupEstimator):
    """The advantage is the score of the episode above the mean of its group, not divided by the std.

    A = s - mean on every sampled token. Episodes, returns, equal scores and groups of one as in ``grpo``. The paper
    also sums token losses with a constant normaliser: ``trainer.loss_aggregation: seq-mean-token-sum-norm``.

    Source: Dr. GRPO, Liu et al. 2025 (arXiv 2503.20783).
    """

    def row_advantages(self, outcomes: Outcomes) -> Tensor:
        return outcomes.above(outcomes.mean_P())


@attrs.frozen
class Rloo(GroupEstimator):
    """The advantage is the score of the episode above the mean of the others of its group (leave one out).

    A = s - mean of the others = n / (n - 1) * (s - mean) on every sampled token, n episodes in the group. Episodes,
    returns, equal scores and groups of one (A = 0; verl 0.6.1 gives the raw score) as in ``grpo``.

    Source: Ahmadian et al. 2024 (arXiv 2402.14740).
    """

    def row_advantages(self, outcomes: Outcomes) -> Tensor:
        n_P = outcomes.n_P
        return outcomes.above(outcomes.mean_P()) * outcomes.per_row(n_P / (n_P - 1).clamp(min=1))


@attrs.frozen
class Opo(GroupEstimator):
    """The advantage is the score of the episode above the length-weighted mean of its group.

    A = s - sum(l * s) / sum(l) over the episodes of the group, l = sampled tokens of an episode in all of its rows: the
    baseline of least variance when squared gradient norms grow with the length. Episodes, returns, equal scores and
    groups of one as in ``grpo``.

    Source: OPO, Hao et al. 2025 (arXiv 2505.23585).
    """

    def row_advantages(self, outcomes: Outcomes) -> Tensor:
        mean_P = outcomes.mean_P()
        index_B = outcomes.index_E[outcomes.episode_B]
        lengths_B = outcomes.lengths_B.double()
        # the correction of the plain mean: exactly 0 where all scores are equal
        weighted_P = group_sum(lengths_B * outcomes.above(mean_P), index_B, outcomes.P)
        return outcomes.above(mean_P + weighted_P / group_sum(lengths_B, index_B, outcomes.P))
