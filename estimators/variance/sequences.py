"""These standard errors are computed from terms per sequence of E: delta method, jackknife, bootstrap.

Sequences of one prompt are one unit. The formulas are written for sequences that are units themselves, with means over
them, h = mean H / mean T and, per sequence, T = 1; with ``per_seq_token_mean`` H, jH and h1 stand for H / T and so on.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import attrs
import torch
from attrs.validators import and_, ge, le

from .base import CONDITIONAL_E, MEASURED_CHANGE, Degenerate, Estimator, Result, jackknife_variance
from .entropy_change import (
    Statistic,
    curvature,
    delta_variance,
    mean_entropy,
    predicted_change,
    predicted_change_reward_to_go,
    true_change,
)
from .terms import Terms

PREDICTION = frozenset({"eta", "H", "T", "jH", "S1"})
MEASUREMENT = frozenset({"H", "T", "w", "h1"})


class _OfSequences(Estimator):
    """The base of the estimators from sequences: each has a statistic, whose variance it estimates."""

    __slots__ = ()
    units: ClassVar[str] = "prompts of E"

    @abstractmethod
    def statistic(self, terms: Terms) -> Statistic:
        """Return the statistic of the terms."""


class _Delta(_OfSequences):
    """The base of the estimators that use the delta method."""

    __slots__ = ()

    def measure(self, terms: Terms) -> Result:
        statistic = self.statistic(terms)
        influence_C = statistic.influence_C()
        return Result(statistic.value, delta_variance(influence_C), len(influence_C))


class _Jackknife(_OfSequences):
    """The base of the estimators that leave out one prompt at a time."""

    __slots__ = ()

    def measure(self, terms: Terms) -> Result:
        statistic = self.statistic(terms)
        left_out_C = statistic.left_out_C()
        return Result(statistic.value, jackknife_variance(left_out_C), len(left_out_C))


@attrs.frozen
class _Bootstrap(_OfSequences):
    """The base of the estimators that draw all prompts again, with replacement."""

    resamples: int = attrs.field(default=1000, validator=and_(ge(2), le(100_000)))
    """Number of times that all prompts are drawn again; the relative error of se is about 1 / sqrt(2 * resamples)."""
    seed: int = attrs.field(default=0, validator=ge(0))
    """Seed of the draws, which are the same in every call."""

    def measure(self, terms: Terms) -> Result:
        statistic = self.statistic(terms)
        # influence_C also refuses terms without variance
        n = len(statistic.influence_C())
        generator = torch.Generator().manual_seed(self.seed)
        values = []
        for _ in range(self.resamples):
            counts_C = torch.bincount(torch.randint(n, (n,), generator=generator), minlength=n)
            values.append(statistic.function(counts_C.double() @ statistic.features_C_F))
        values_R = torch.stack(values)
        if not bool(values_R.isfinite().all()):
            raise Degenerate("undefined", "the weights of some resamples are all 0", n)
        low, high = values_R.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return Result(statistic.value, float(values_R.var()), n, {"ci_low": low, "ci_high": high})


# --- the prediction -------------------------------------------------------------------------------------------------


@attrs.frozen
class DerivDelta(_Delta):
    """Estimate the variance of the predicted change by the delta method; this is the default.

    With a = jH + H S1, c = T S1, C = mean c: D = (mean a - h C) / mean T, value = eta D,
    IF_i = [a_i - h c_i - (C / mean T) (H_i - h T_i) - D T_i] / mean T, var = eta^2 sum IF^2 / (B (B - 1)). D is the
    derivative of the importance-sampled change at eta = 0. Consistent in the number of prompts.
    """

    needs: ClassVar[frozenset[str]] = PREDICTION
    estimand: ClassVar[str] = CONDITIONAL_E

    def statistic(self, terms: Terms) -> Statistic:
        return predicted_change(terms)


@attrs.frozen
class DerivDeltaRewardToGo(_Delta):
    """Estimate the variance of the change predicted with rewards to go, by the delta method.

    As ``deriv_delta`` with a = jH + Hj, c = Tj (0 per sequence): every entropy is centred by h before the sum over what
    comes after a token, which is mostly less noisy. There is no such form of ``per_seq_token_mean``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"eta", "H", "T", "jH", "Hj", "Tj"})
    estimand: ClassVar[str] = CONDITIONAL_E

    def statistic(self, terms: Terms) -> Statistic:
        return predicted_change_reward_to_go(terms)


@attrs.frozen
class DerivJackknife(_Jackknife):
    """Estimate the variance of the predicted change by leaving out one prompt at a time.

    var = (N - 1) / N * sum (D_-n - mean)^2, D as in ``deriv_delta``, with h and mean T computed without that prompt.
    For a ratio it equals the delta method to first order.
    """

    needs: ClassVar[frozenset[str]] = PREDICTION
    estimand: ClassVar[str] = CONDITIONAL_E

    def statistic(self, terms: Terms) -> Statistic:
        return predicted_change(terms)


@attrs.frozen
class Bootstrap(_Bootstrap):
    """Estimate the variance of the predicted change by drawing prompts again and computing it from each resample.

    Prompts are drawn with replacement; var = variance over the resamples of eta D, D as in ``deriv_delta``. It is
    expected to be (N - 1) / N of that of the delta method. extra: ``ci_low``, ``ci_high``, the 95 % percentile
    interval.
    """

    needs: ClassVar[frozenset[str]] = PREDICTION
    estimand: ClassVar[str] = CONDITIONAL_E

    def statistic(self, terms: Terms) -> Statistic:
        return predicted_change(terms)


@attrs.frozen
class JvpShardSe(_OfSequences):
    """Estimate the variance of the predicted change from the differences between shards (micro-batches or ranks).

    c_m = sum of IF_i / B over shard m, IF as in ``deriv_delta``; var = S / (S - 1) * sum over the S shards of c_m^2:
    for shards of one size, S times the variance of contributions that add up to deltaH1. It has the degrees of freedom
    of the number of shards, and no prompt may be in two of them.
    """

    needs: ClassVar[frozenset[str]] = PREDICTION | {"shard"}
    estimand: ClassVar[str] = CONDITIONAL_E
    units: ClassVar[str] = "shards of E"

    def statistic(self, terms: Terms) -> Statistic:
        return predicted_change(attrs.evolve(terms, prompt=terms["shard"]))

    def measure(self, terms: Terms) -> Result:
        if terms.prompt is not None and _prompt_in_several_shards(terms):
            raise Degenerate("undefined", "a prompt is in more than one shard", len(torch.unique(terms["shard"])))
        statistic = self.statistic(terms)
        influence_S = statistic.influence_C()
        return Result(statistic.value, delta_variance(influence_S), len(influence_S))


def _prompt_in_several_shards(terms: Terms) -> bool:
    """Say whether a prompt has sequences in more than one shard."""
    pairs_2_B = torch.stack([terms["prompt"], terms["shard"]])
    return len(torch.unique(pairs_2_B, dim=1)[0]) > len(torch.unique(terms["prompt"]))


# --- the measured change --------------------------------------------------------------------------------------------


@attrs.frozen
class SnisDelta(_Delta):
    """Estimate the variance of the measured change by the delta method.

    R = sum w h1 / sum w T, R0 = sum H / sum T, value = R - R0,
    IF_i = w_i (h1_i - R T_i) / mean(w T) - (H_i - R0 T_i) / mean T, var = sum IF^2 / (B (B - 1)). Both terms are of the
    same sequence, so what they have in common cancels: without that, so small a change could not be measured.
    """

    needs: ClassVar[frozenset[str]] = MEASUREMENT
    estimand: ClassVar[str] = MEASURED_CHANGE

    def statistic(self, terms: Terms) -> Statistic:
        return true_change(terms)


@attrs.frozen
class SnisJackknife(_Jackknife):
    """Estimate the variance of the measured change by leaving out one prompt at a time.

    var = (N - 1) / N * sum (V_-n - mean)^2, V = R - R0 as in ``snis_delta``, with weights normalised again.
    """

    needs: ClassVar[frozenset[str]] = MEASUREMENT
    estimand: ClassVar[str] = MEASURED_CHANGE

    def statistic(self, terms: Terms) -> Statistic:
        return true_change(terms)


@attrs.frozen
class SnisBootstrap(_Bootstrap):
    """Estimate the variance of the measured change by drawing prompts again.

    Prompts are drawn with replacement; var = variance over the resamples of R - R0 of ``snis_delta``, with weights
    normalised again. extra: ``ci_low``, ``ci_high``, the 95 % percentile interval.
    """

    needs: ClassVar[frozenset[str]] = MEASUREMENT
    estimand: ClassVar[str] = MEASURED_CHANGE

    def statistic(self, terms: Terms) -> Statistic:
        return true_change(terms)


@attrs.frozen
class PairedDifference(_Delta):
    """Estimate the variance of the curvature: the measured minus the predicted change on one sample of E.

    IF_i = IF_i of ``snis_delta`` - eta IF_i of ``deriv_delta``, var = sum IF^2 / (B (B - 1)). The prediction is the
    exact derivative of the measurement on the same sample, so value / se asks whether the step is long enough for its
    curvature to be seen. It is no z-score of the prediction: that needs two independent samples of E.
    """

    needs: ClassVar[frozenset[str]] = PREDICTION | MEASUREMENT
    estimand: ClassVar[str] = "curvature: of deltaH_true - deltaH1 on one sample of E, over draws of E"

    def statistic(self, terms: Terms) -> Statistic:
        return curvature(terms)


@attrs.frozen
class EntropyPromptJackknife(_Jackknife):
    """Estimate the variance of the mean entropy itself, before the step, by leaving out one prompt at a time.

    var = (N - 1) / N * sum (h_-n - mean)^2, h_-n the entropy without prompt n. It says how well E measures the entropy,
    which is much worse than how well it measures a change.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"H", "T"})
    estimand: ClassVar[str] = "of the mean entropy before the step, over draws of E"

    def statistic(self, terms: Terms) -> Statistic:
        return mean_entropy(terms)
