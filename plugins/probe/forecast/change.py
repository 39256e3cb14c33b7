"""The change of the entropy that the response of sampled tokens to an update makes, and how far it can be trusted.

To first order in the change of the policy at each token, and to all orders in that of the token itself,

    dh = [sum_t dH_t + sum_t (w_t - 1) (sum over k > t of (H_k - h) - b_t)] / sum T,   w_t = pi_new / pi_old of token t

with h the entropy per token of the other groups and b_t what the other groups have, on the mean, to come after the same
place. Both are independent of token t, and the weight of a token has mean 1 whatever came before it, so they cost no
bias and take out most of the noise. Weights of whole sequences are their products, and have heavy tails; those of
tokens are truncated (Ionides: Truncated Importance Sampling, 2008).
"""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from ....core.components import Rollouts
from ....estimators.variance.statistics import delta_variance, mean_entropy
from ....estimators.variance.terms import Terms
from ..estimation.passes import Outputs
from ..estimation.sequences import entropy_terms
from ..estimation.tokens import SampledTokens

MOST_WEIGHT = 5.0
"""A token counts as if the update had made it at most so many times as likely."""
LEAST_DEGREES = 3.0
"""Degrees of freedom of an error below which it is taken to be as if it had so many."""


@attrs.frozen(eq=False)
class Change:
    """A number, and what each group adds to it beside the mean of all."""

    value: float
    """Nats per token."""
    influence_G: Tensor
    """Nats per token; their sum is 0."""

    @property
    def se(self) -> float:
        """The standard error over draws of groups; NaN for one group, or where no group has any influence.

        The deviation of t, the value over its estimated error, is 1: with few groups, or where few groups have most of
        the influence, the root of the estimated variance would be too small.
        """
        return error(self.influence_G)


def error(influence_G: Tensor) -> float:
    """The standard error of a sum of influences, widened by the deviation of its t distribution."""
    if len(influence_G) < 2 or not bool(influence_G.any()):
        return math.nan
    degrees = max(degrees_of_freedom(influence_G), LEAST_DEGREES)
    return math.sqrt(delta_variance(influence_G) * degrees / (degrees - 2))


def degrees_of_freedom(influence_G: Tensor) -> float:
    """Of the estimated variance, from the kurtosis of the influences: G - 1 at most, 2 if one group has it all.

    The relative variance of a variance of G numbers is (kurtosis - 1) / G, and that of a chi-square over its degrees
    of freedom 2 / degrees.
    """
    count = len(influence_G)
    squares = influence_G.square()
    concentration = float(squares.square().sum() / squares.sum() ** 2)
    excess = concentration - 1 / count
    return min(count - 1, 2 / excess) if excess > 0 else count - 1


def predicted_change(tables: Outputs, rollouts: Rollouts) -> Change:
    """The change of the entropy per token that changes of the outputs make.

    Args:
        tables: [B, T] ``logprobs`` and ``entropies`` before, nats, and their changes as ``..._rate``.
        rollouts: two groups at least.
    """
    of_sequence = _terms(tables, rollouts)
    _, index = rollouts.groups_of_episodes().unique(return_inverse=True)

    def by_group(x: Tensor) -> Tensor:
        return torch.zeros(int(index.max()) + 1, dtype=torch.float64).index_add(0, index, x)

    a_G, c_G, H_G, T_G = (by_group(x) for x in of_sequence)
    T = T_G.sum()
    others_G = (H_G.sum() - H_G) / (T - T_G)
    value = (a_G - others_G * c_G).sum() / T
    h, c = H_G.sum() / T, c_G.sum() / T
    influence_G = (a_G - h * c_G - c * (H_G - h * T_G) - value * T_G) / T
    return Change(float(value), influence_G - influence_G.mean())


def entropy_level(base: Outputs, rollouts: Rollouts) -> Change:
    """The entropy per token itself, and what each group adds to it."""
    statistic = mean_entropy(Terms(entropy_unit="per_token_ratio", **entropy_terms(base, rollouts)))
    H_G, T_G = statistic.features_C_F.unbind(1)
    return Change(statistic.value, (H_G - statistic.value * T_G) / T_G.sum())


def _terms(tables: Outputs, rollouts: Rollouts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """[E] each, by episode: a and c, of which the change of h is sum (a - h c) / sum T; H; T."""
    tokens = SampledTokens(rollouts)
    turn_N, group_N = tokens.of(rollouts.turns), rollouts.groups_of_episodes()[tokens.sequence_N]
    H_N, change_N, logprob_N = (tokens.of(tables[name]) for name in ("entropies", "entropies_rate", "logprobs_rate"))
    excess_N, one_N = torch.expm1(logprob_N.clamp(max=math.log(MOST_WEIGHT))), torch.ones_like(H_N)
    place_N = _places(tokens.sequence_N, turn_N)

    def weighed(x_N: Tensor) -> Tensor:
        """The excess weight of each token times what comes after it, less what others have there."""
        to_come_N = tokens.to_come(x_N)
        return tokens.total(excess_N * (to_come_N - _of_others(to_come_N, group_N, place_N)))

    return tokens.total(change_N) + weighed(H_N), weighed(one_N), tokens.total(H_N), tokens.total(one_N)


def _places(episode_N: Tensor, turn_N: Tensor) -> Tensor:
    """[N]: a number for each pair of turn and position in it; tokens lie in the order of episodes and turns."""
    _, lengths = torch.unique_consecutive(torch.stack([episode_N, turn_N]), dim=1, return_counts=True)
    starts = lengths.cumsum(0) - lengths
    position_N = torch.arange(len(turn_N)) - starts.repeat_interleave(lengths)
    return torch.stack([turn_N, position_N]).unique(dim=1, return_inverse=True)[1]


def _of_others(x_N: Tensor, group_N: Tensor, place_N: Tensor) -> Tensor:
    """[N]: the mean of x over the tokens of other groups at the same place; 0 where there are none."""
    _, group_N = group_N.unique(return_inverse=True)
    shape = int(group_N.max()) + 1, int(place_N.max()) + 1
    cell_N = group_N * shape[1] + place_N
    sums, counts = (
        torch.zeros(shape[0] * shape[1], dtype=torch.float64).index_add(0, cell_N, values).reshape(shape)
        for values in (x_N, torch.ones_like(x_N))
    )
    other_sums, other_counts = sums.sum(0) - sums, counts.sum(0) - counts
    return (other_sums / other_counts.clamp(min=1)).flatten()[cell_N]
