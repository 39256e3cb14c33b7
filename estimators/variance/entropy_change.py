"""Quantities that the probe estimates from the sequences of E, as functions of sums over units.

A :class:`Statistic` is a function of the sums of some features over the units, and does not change when all sums are
multiplied by a number. So the delta method is its gradient, the jackknife and the bootstrap are other sums, and all
three agree on what is estimated: ratios and normalised weights are recomputed, never held fixed.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from .base import Degenerate, require_variance
from .terms import Terms


@attrs.frozen(eq=False)
class Statistic:
    """A statistic is a function of the sums of features over units."""

    features_C_F: Tensor
    """[C, F]: features of each unit, summed over its sequences."""
    function: Callable[[Tensor], Tensor]
    """Function of the sums, [..., F] -> [...]."""

    @property
    def value(self) -> float:
        """Value of the function at the sums over all units."""
        return float(self.function(self.features_C_F.sum(0)))

    def influence_C(self) -> Tensor:
        """Return the linear part of what each unit adds to the value: [C], with the sum 0.

        Raises:
            Degenerate: there are fewer than two units, all are alike, or what they add is rounding noise.
        """
        require_variance(self.features_C_F)
        gradient_F = torch.func.grad(self.function)(self.features_C_F.sum(0))
        influence_C: Tensor = self.features_C_F @ gradient_F
        rounding_C = 8 * torch.finfo(torch.float64).eps * (self.features_C_F.abs() @ gradient_F.abs())
        if bool((influence_C.abs() <= rounding_C).all()):
            raise Degenerate("zero_variance", "no unit has any influence", len(influence_C))
        return influence_C

    def left_out_C(self) -> Tensor:
        """Return the value without each unit: [C]. Raises Degenerate as :meth:`influence_C`."""
        self.influence_C()  # refuses terms without variance
        return self.function(self.features_C_F.sum(0) - self.features_C_F)

    def regroup(self, index_C: Tensor) -> Statistic:
        """Return the same statistic with larger units; ``index_C`` has the new unit of each old one."""
        zeros_C_F = self.features_C_F.new_zeros(int(index_C.max()) + 1, self.features_C_F.shape[1])
        return attrs.evolve(self, features_C_F=zeros_C_F.index_add(0, index_C, self.features_C_F))


def delta_variance(influence_C: Tensor) -> float:
    """Return C / (C - 1) * sum of squared influences."""
    n = len(influence_C)
    return n / (n - 1) * float(influence_C.square().sum())


def mean_entropy(terms: Terms) -> Statistic:
    """Define the mean entropy before the step."""
    H_B, T_B = _entropy(terms, "H")
    return by_prompt(terms, [H_B, T_B], lambda sums: sums[..., 0] / sums[..., 1])


def predicted_change(terms: Terms) -> Statistic:
    """Define deltaH1 = eta * D_v h, the prediction: the derivative of the importance-sampled change, whole sequences.

    D_v h = (sum jH + H S1 - h T S1) / sum T with h = sum H / sum T; per sequence T is 1.
    """
    H_B, T_B = _entropy(terms, "H")
    jH_B, _ = _entropy(terms, "jH")
    return _derivative(terms, jH_B + H_B * terms["S1"], T_B * terms["S1"], H_B, T_B)


def predicted_change_reward_to_go(terms: Terms) -> Statistic:
    """Define the prediction, eta * D_v h, with rewards to go: the entropy after a token, centred by h, times its j.

    D_v h = (sum jH + Hj - h Tj) / sum T; per sequence there is no Tj.

    Raises:
        Degenerate: the unit is ``per_seq_token_mean``, where the entropy of a token is divided by the length of its
            sequence, which depends on the tokens that follow.
    """
    if terms.entropy_unit == "per_seq_token_mean":
        raise Degenerate("undefined", "the mean of H / T has no reward-to-go form", len(terms["H"]))
    H_B, T_B = _entropy(terms, "H")
    Tj_B = terms["Tj"] if terms.entropy_unit == "per_token_ratio" else torch.zeros_like(H_B)
    return _derivative(terms, terms["jH"] + terms["Hj"], Tj_B, H_B, T_B)


def true_change(terms: Terms) -> Statistic:
    """Define the measured change, sum w h1 / sum w T - sum H / sum T; per sequence T is 1."""
    H_B, T_B = _entropy(terms, "H")
    h1_B, _ = _entropy(terms, "h1")
    w_B = terms["w"]
    if not bool(w_B.any()):
        raise Degenerate("undefined", "all importance weights are 0", len(w_B))
    return by_prompt(
        terms,
        [w_B * h1_B, w_B * T_B, H_B, T_B],
        lambda sums: sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3],
    )


def curvature(terms: Terms) -> Statistic:
    """Define the curvature: the measured change minus the predicted one, on the same sequences."""
    true, predicted = true_change(terms), predicted_change(terms)
    F = true.features_C_F.shape[1]
    return Statistic(
        torch.cat([true.features_C_F, predicted.features_C_F], 1),
        lambda sums: true.function(sums[..., :F]) - predicted.function(sums[..., F:]),
    )


def by_prompt(terms: Terms, features: list[Tensor], function: Callable[[Tensor], Tensor]) -> Statistic:
    """Define a statistic of these features ([B] each), with prompts as units."""
    statistic = Statistic(torch.stack(features, 1), function)
    if terms.prompt is None:
        return statistic
    _, prompt_B = torch.unique(terms.prompt, return_inverse=True)
    return statistic.regroup(prompt_B)


def _entropy(terms: Terms, name: str) -> tuple[Tensor, Tensor]:
    """Return numerator and denominator, [B] each, of an entropy (or its derivative) in the unit that is asked for."""
    x_B, T_B = terms[name], terms["T"]
    match terms.entropy_unit:
        case "per_token_ratio":
            return x_B, T_B
        case "per_seq_token_mean":
            return x_B / T_B, torch.ones_like(T_B)
        case _:
            return x_B, torch.ones_like(T_B)


def _derivative(terms: Terms, a_B: Tensor, c_B: Tensor, H_B: Tensor, T_B: Tensor) -> Statistic:
    eta = float(terms["eta"])

    def function(sums: Tensor) -> Tensor:
        a, c, H, T = sums.unbind(-1)
        return eta * (a - H / T * c) / T

    return by_prompt(terms, [a_B, c_B, H_B, T_B], function)
