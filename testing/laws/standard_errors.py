"""The laws of standard errors of the entropy probe."""

from __future__ import annotations

import math

import torch

from ...core.compose.blame import confined
from ...core.compose.named import Named
from ...core.errors import RunError
from ...estimators.variance.terms import Estimate, Terms
from .. import samples
from ..problems import laws, require

UNITS = 6
SEQUENCES = 24


def _normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=samples.generator(seed), dtype=torch.float64)


def terms() -> Terms:
    """Make every term that there is, for 6 prompts with 4 sequences each."""
    K_NM = _normal(UNITS, UNITS, seed=1) + 0.5
    prompt = torch.arange(SEQUENCES) // 4
    lengths = torch.randint(2, 9, (SEQUENCES,), generator=samples.generator(2))
    return Terms(
        eta=0.01,
        s_N=K_NM.mean(1),
        t_M=K_NM.mean(0),
        K_NM=K_NM,
        r_U=_normal(UNITS, seed=3),
        K_UU=_normal(UNITS, UNITS, seed=4),
        H=lengths * (0.5 + _normal(SEQUENCES, seed=5).abs()),
        T=lengths,
        jH=_normal(SEQUENCES, seed=6),
        S1=_normal(SEQUENCES, seed=7),
        Hj=_normal(SEQUENCES, seed=8),
        Tj=_normal(SEQUENCES, seed=9),
        z=_normal(SEQUENCES, 2, seed=10),
        w=(0.1 * _normal(SEQUENCES, seed=11)).exp(),
        h1=lengths * (0.5 + _normal(SEQUENCES, seed=12).abs()),
        prompt=prompt,
        shard=torch.arange(SEQUENCES) // 6,
        repeats_K=_normal(8, seed=13),
        sizes_K=torch.tensor([4, 4, 8, 8, 16, 16, 32, 32]),
        grad_sq_R=1 + _normal(8, seed=14).abs(),
        grad_sizes_R=torch.tensor([4, 4, 8, 8, 16, 16, 32, 32]),
    )


def _estimates(named: Named) -> None:
    """An estimator gives an Estimate of its estimand, whose standard error is a number, or NaN with a reason."""
    estimate = _of(named, terms())
    stated = getattr(named.component, "estimand", None)
    require(named, "estimand", isinstance(stated, str) and bool(stated), "does not say what varies and what is fixed")
    require(named, "estimate", estimate.estimand == stated, f"gave the estimand {estimate.estimand!r}, not {stated!r}")
    if estimate.status in ("ok", "clipped"):
        fine = math.isfinite(estimate.se) and estimate.se >= 0
        require(named, "estimate", fine, f"gave the standard error {estimate.se} with the status {estimate.status}")
        square = math.isclose(estimate.var, estimate.se**2, rel_tol=1e-6, abs_tol=1e-300)
        require(named, "estimate", square, f"gave a var of {estimate.var}, which is not the square of se {estimate.se}")
    else:
        silent = math.isnan(estimate.se) and bool(estimate.reason)
        require(named, "estimate", silent, f"gave se {estimate.se} with the status {estimate.status}, or no reason")


def _misses_what_it_needs(named: Named) -> None:
    """An estimator raises RunError if a term that it needs was not measured."""
    if not named.needs:
        return
    try:
        with confined(named, "estimate"):
            named.component.estimate(Terms())
    except RunError as error:
        require(named, "estimate", error.__cause__ is None, "fails in its own way where a needed term is missing")
        return
    require(named, "estimate", False, "does not miss a term that it needs", "raise RunError")


def _needs_terms(named: Named) -> None:
    """An estimator needs nothing but fields of the terms."""
    unknown = [name for name in named.needs if not hasattr(Terms(), name)]
    require(named, "needs", not unknown, f"holds {', '.join(unknown)}, which are no fields of Terms")


def _of(named: Named, measured: Terms) -> Estimate:
    """Estimate from terms, and require that the result is an Estimate."""
    with confined(named, "estimate"):
        estimate = named.component.estimate(measured)
    require(named, "estimate", isinstance(estimate, Estimate), f"gave {type(estimate).__name__}, not an Estimate")
    return estimate


LAWS = {"variance": laws(_estimates, _needs_terms, _misses_what_it_needs)}
