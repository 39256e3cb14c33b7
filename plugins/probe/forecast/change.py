"""The entropy change of an update is predicted from how sampled tokens respond to it, with an error of its own.

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
from ....estimators.variance.entropy_change import delta_variance, mean_entropy
from ....estimators.variance.terms import Terms
from ..estimation.passes import Outputs
from ..estimation.sequences import entropy_terms
from ..estimation.tokens import SampledTokens

MOST_WEIGHT = 5.0
"""Largest weight of a token: how many times as likely the update may have made it."""
LEAST_DEGREES = 3.0
"""Least degrees of freedom of an error; with fewer it is taken as if it had so many."""


@attrs.frozen(eq=False)
class Change:
    """A change is a number, with what each group adds to it beside the mean of all."""

    value: float
    """Value in nats per token."""
    influence_G: Tensor
    """Influence of each group, in nats per token; the sum is 0."""

    @property
    def se(self) -> float:
        """Standard error over draws of groups; NaN for one group, or where no group has any influence.

        The deviation of t, the value over its estimated error, is 1: with few groups, or where few groups have most of
        the influence, the root of the estimated variance would be too small.
        """
        return error(self.influence_G)


def error(influence_G: Tensor) -> float:
    """Return the standard error of a sum of influences, widened by the deviation of its t distribution."""
    if len(influence_G) < 2 or not bool(influence_G.any()):
        return math.nan
    degrees = max(degrees_of_freedom(influence_G), LEAST_DEGREES)
    return math.sqrt(delta_variance(influence_G) * degrees / (degrees - 2))


def degrees_of_freedom(influence_G: Tensor) -> float:
    """Estimate the degrees of freedom of the variance by the influences' kurtosis: G - 1 at most, 2 if one has it all.

    The relative variance of a variance of G numbers is (kurtosis - 1) / G, and that of a chi-square over its degrees
    of freedom 2 / degrees.
    """
    count = len(influence_G)
    squares = influence_G.square()
    concentration = float(squares.square().sum() / squares.sum() ** 2)
    excess = concentration - 1 / count
    return min(count - 1, 2 / excess) if excess > 0 else count - 1


def predicted_change(tables: Outputs, rollouts: Rollouts) -> Change:
    """Predict the change of the entropy per token that changes of the outputs make.

    Args:
        tables: [B, T] ``logprobs`` and ``entropies`` before, nats, and their changes as ``..._rate``.
        rollouts: two groups at least.
    """
    _, index_E = rollouts.groups_of_episodes().unique(return_inverse=True)

    def by_group(x_E: Tensor) -> Tensor:
        return torch.zeros(int(index_E.max()) + 1, dtype=torch.float64).index_add(0, index_E, x_E)

    a_G, c_G, H_G, T_G = map(by_group, _terms(tables, rollouts))
    T = T_G.sum()
    # the entropy that centres a group is that of the others, which its own tokens cannot bias
    others_G = (H_G.sum() - H_G) / (T - T_G)
    value = (a_G - others_G * c_G).sum() / T
    h, c = H_G.sum() / T, c_G.sum() / T
    influence_G = (a_G - h * c_G - c * (H_G - h * T_G) - value * T_G) / T
    return Change(float(value), influence_G - influence_G.mean())


def entropy_level(base: Outputs, rollouts: Rollouts) -> Change:
    """Return the entropy per token itself, and what each group adds to it."""
    statistic = mean_entropy(Terms(entropy_unit="per_token_ratio", **entropy_terms(base, rollouts)))
    H_G, T_G = statistic.features_C_F.unbind(1)
    return Change(statistic.value, (H_G - statistic.value * T_G) / T_G.sum())


def _terms(tables: Outputs, rollouts: Rollouts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a, c, H and T of each episode, all [E]; the change of h is sum (a - h c) / sum T."""
    tokens = SampledTokens(rollouts)
    group_N = rollouts.groups_of_episodes()[tokens.sequence_N]
    place_N = _places(tokens.sequence_N, tokens.of(rollouts.turns))
    H_N, change_N = tokens.of(tables["entropies"]), tokens.of(tables["entropies_rate"])
    excess_N = torch.expm1(tokens.of(tables["logprobs_rate"]).clamp(max=math.log(MOST_WEIGHT)))
    one_N = torch.ones_like(H_N)

    def weighed(x_N: Tensor) -> Tensor:
        """Return the sums of each token's excess weight times what comes after it, less what others have there."""
        to_come_N = tokens.to_come(x_N)
        return tokens.total(excess_N * (to_come_N - _of_others(to_come_N, group_N, place_N)))

    return tokens.total(change_N) + weighed(H_N), weighed(one_N), tokens.total(H_N), tokens.total(one_N)


def _places(episode_N: Tensor, turn_N: Tensor) -> Tensor:
    """Number each pair of turn and position in it: [N]; the tokens lie in the order of episodes and turns."""
    _, lengths = torch.unique_consecutive(torch.stack([episode_N, turn_N]), dim=1, return_counts=True)
    starts = lengths.cumsum(0) - lengths
    position_N = torch.arange(len(turn_N)) - starts.repeat_interleave(lengths)
    # one number for each pair, since sorting numbers takes far less time than sorting pairs
    pair_N = turn_N * int(lengths.max()) + position_N
    return pair_N.unique(return_inverse=True)[1]


def _of_others(x_N: Tensor, group_N: Tensor, place_N: Tensor) -> Tensor:
    """Return the mean of x over the tokens of other groups at the same place: [N]; 0 where there are none."""
    _, group_N = group_N.unique(return_inverse=True)
    shape = int(group_N.max()) + 1, int(place_N.max()) + 1
    cell_N = group_N * shape[1] + place_N
    sums, counts = (
        torch.zeros(shape[0] * shape[1], dtype=torch.float64).index_add(0, cell_N, values).reshape(shape)
        for values in (x_N, torch.ones_like(x_N))
    )
    other_sums, other_counts = sums.sum(0) - sums, counts.sum(0) - counts
    return (other_sums / other_counts.clamp(min=1)).flatten()[cell_N]
