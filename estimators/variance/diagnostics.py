"""These numbers describe the quality of a probe; they are no error bars of an entropy change."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch

from .base import Degenerate, Estimator, Result, require_units
from .entropy_change import by_prompt, delta_variance
from .terms import Terms


@attrs.frozen
class SnisEss(Estimator):
    """Compute the effective sample size of the importance weights, and the error of their mean.

    value = ESS = (sum w)^2 / sum w^2 = B / (1 + var w / (mean w)^2), in sequences. ESS is no error bar of the entropy
    change. var and se are those of the mean weight, which is 1 within that error if sampling, log-probs and the count
    of the end-of-sequence token are right. extra: ``ess_fraction``, ``mean_w``, ``w_max``, ``w_min``.
    Equal weights are fine (the step is 0): the status is then ``zero_variance``, and there is a value.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"w"})
    estimand: ClassVar[str] = "weight quality: of the mean importance weight, over draws of E"
    units: ClassVar[str] = "prompts of E"

    def measure(self, terms: Terms) -> Result:
        w_B = terms["w"]
        if not bool(w_B.any()):
            raise Degenerate("undefined", "all importance weights are 0", len(w_B))
        # divided by the largest one, because squares of large weights would overflow
        shares_B = w_B / w_B.max()
        ess = float(shares_B.sum().square() / shares_B.square().sum())
        mean = by_prompt(terms, [w_B, torch.ones_like(w_B)], lambda sums: sums[..., 0] / sums[..., 1])
        extra = {
            "ess_fraction": ess / len(w_B),
            "mean_w": float(w_B.mean()),
            "w_max": float(w_B.max()),
            "w_min": float(w_B.min()),
        }
        try:
            influence_C = mean.influence_C()
        except Degenerate as no_variance:
            return Result(ess, None, len(mean.features_C_F), extra, no_variance.status, str(no_variance))
        return Result(ess, delta_variance(influence_C), len(influence_C), extra)

    def measured_in(self, terms: Terms) -> str:
        return "sequences (value), weight (se)"


@attrs.frozen
class Gns(Estimator):
    """Estimate the gradient noise scale: the batch size at which the noise of a mean gradient equals the gradient.

    It is tr(S) / |G|^2. E |G_b|^2 = |G|^2 + tr(S) / b is fitted by least squares to the squared norms of mean gradients
    of several batch sizes b; with two sizes it is the usual pair of a small and a large batch. value: the noise scale
    in samples. extra: ``trace``, ``norm_sq``. It has no standard error here; a trace or norm that comes out at 0 or
    below is undefined.

    Source: McCandlish et al. 2018, "An empirical model of large-batch training" (arXiv 1812.06162), appendix A.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grad_sq_R", "grad_sizes_R"})
    estimand: ClassVar[str] = "gradient noise scale; no standard error of an entropy change"
    units: ClassVar[str] = "norms of gradients"

    def measure(self, terms: Terms) -> Result:
        sq_R, sizes_R = terms["grad_sq_R"], terms["grad_sizes_R"].double()
        n = len(sq_R)
        require_units(len(torch.unique(sizes_R)), 2)
        design_R_2 = torch.stack([torch.ones_like(sizes_R), 1 / sizes_R], 1)
        norm_sq, trace = torch.linalg.lstsq(design_R_2, sq_R[:, None]).solution.flatten().tolist()
        if norm_sq <= 0 or trace <= 0:
            raise Degenerate("undefined", f"|G|^2 = {norm_sq:.3g} and tr(S) = {trace:.3g}: too noisy to divide", n)
        return Result(trace / norm_sq, None, n, {"trace": trace, "norm_sq": norm_sq})

    def measured_in(self, terms: Terms) -> str:
        return "samples"
