"""The whole chain again and again on fresh samples: the mean of the squared standard errors is the variance."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch
from uncollapse.core.registry import registry
from uncollapse.plugins.probe.checkpoint.adam_state import AdamSettings
from uncollapse.plugins.probe.estimation.directions import AdamW, PreconditionedGradient
from uncollapse.plugins.probe.estimation.measured_change import Weighting
from uncollapse.plugins.probe.estimation.measurement import Measurement
from uncollapse.plugins.probe.estimation.passes import inner, trained
from uncollapse.plugins.probe.estimation.step import Step

sys.path.insert(0, str(Path(__file__).parent))
import exact_model as exact

UNITS = ("per_sequence", "per_token_ratio", "per_seq_token_mean")
SNIS = Weighting()
ETA = 0.15
# the new gradient has a fifth of the second moment: the denominators are random as well
NOISY = AdamSettings((0.9, 0.8), 1e-8, 0.01)


def calibrated(values, variances, low=0.8, high=1.25):
    values, variances = (torch.tensor(x, dtype=torch.float64) for x in (values, variances))
    ratio = float(variances.mean() / values.var())
    assert low <= ratio <= high, ratio


def unbiased(values, expected):
    values = torch.tensor(values, dtype=torch.float64)
    z = float((values.mean() - expected) / (values.std() / math.sqrt(len(values))))
    assert abs(z) < 4, z


def estimates(names, terms):
    return {name: registry().create("variance", name).estimate(terms) for name in names}


@pytest.fixture(scope="module")
def repetitions():
    """500 samples of E of 48 prompts with 2 responses each, against one direction."""
    policy, generator = exact.ExactPolicy(11), torch.Generator().manual_seed(12)
    v = exact.direction_of(policy, 13)
    measured = [
        Measurement(policy, exact.sample(policy, 48, 2, generator), exact.Fixed(v), size=96, ranks=exact.ONE, eta=ETA)
        for _ in range(500)
    ]
    return policy, v, measured


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        *itertools.product(["deriv_delta", "conditional_E"], UNITS),
        *itertools.product(["deriv_delta_reward_to_go"], UNITS[:2]),
    ],
)
def test_of_the_prediction_over_E(repetitions, name, unit):
    policy, v, measured = repetitions
    wanted = registry().create("variance", name).needs
    found = [estimates([name], m.terms(unit, wanted, SNIS))[name] for m in measured]
    assert all(estimate.status == "ok" and estimate.n == 48 for estimate in found)
    calibrated([e.value for e in found], [e.var for e in found])
    unbiased([e.value for e in found], ETA * inner(exact.entropy_gradient(policy, unit), v))


@pytest.mark.parametrize("unit", UNITS)
def test_of_the_truth_over_E(repetitions, unit):
    policy, v, measured = repetitions
    found = [estimates(["snis_delta"], m.terms(unit, {"w", "h1"}, SNIS))["snis_delta"] for m in measured]
    calibrated([e.value for e in found], [e.var for e in found])
    change = exact.entropy(policy, unit, "rb", v, ETA) - exact.entropy(policy, unit)
    unbiased([e.value for e in found], change)
    # the probe's own numbers are the same
    for m, estimate in zip(measured[:5], found, strict=False):
        value, se = m.truth(ETA, SNIS).change(m.truth_terms(unit))
        assert (value, se) == pytest.approx((estimate.value, estimate.se), rel=1e-9)


def test_weights_and_scores_have_the_means_that_they_must(repetitions):
    _, _, measured = repetitions
    quality = [m.truth(ETA, SNIS).weights_of(m.truth_terms("per_sequence")) for m in measured]
    unbiased([q["mean_w"] for q in quality], 1.0)
    calibrated([q["mean_w"] for q in quality], [q["se_mean_w"] ** 2 for q in quality])
    unbiased([float(m.predicted_sums["S1"].mean()) for m in measured], 0.0)


def test_the_paired_difference_is_curvature(repetitions):
    """Its standard error is that of the curvature, far below that of prediction or truth."""
    policy, v, measured = repetitions
    names = ["paired_difference", "deriv_delta"]
    wanted = set().union(*(registry().create("variance", name).needs for name in names))
    found = [estimates(names, m.terms("per_sequence", wanted, SNIS)) for m in measured]
    values = [e["paired_difference"].value for e in found]
    calibrated(values, [e["paired_difference"].var for e in found])
    change = exact.entropy(policy, "per_sequence", "rb", v, ETA) - exact.entropy(policy, "per_sequence")
    unbiased(values, change - ETA * inner(exact.entropy_gradient(policy, "per_sequence"), v))


def steps(rule, prompts, repeats, seed):
    policy, generator = exact.ExactPolicy(11), torch.Generator().manual_seed(seed)
    adam = exact.adam_of(policy, step=3, settings=NOISY)
    own = AdamW(adam, trained(policy)) if rule == "adamw" else PreconditionedGradient(adam)
    E = exact.sample(policy, 20, 2, generator)
    for _ in range(repeats):
        U = exact.sample(policy, prompts, 3, generator)
        yield policy, E, Step(policy, exact.update_of(U), own, size=1000, ranks=exact.ONE), generator


@pytest.mark.parametrize(
    ("rule", "unit", "M"),
    [
        ("proxy", "per_sequence", 30),
        pytest.param("proxy", "per_token_ratio", 30, marks=pytest.mark.slow),
        # the delta method through the denominators takes many prompts
        pytest.param("adamw", "per_sequence", 150, marks=pytest.mark.slow),
        pytest.param("adamw", "per_token_ratio", 150, marks=pytest.mark.slow),
    ],
)
def test_of_the_prediction_over_U(rule, unit, M):
    found, fixed = [], []
    for policy, E, step, _ in steps(rule, M, 400, 14):
        measured = Measurement(policy, E, step, size=1000, ranks=exact.ONE, eta=ETA)
        found.append(estimates(["conditional_U"], measured.terms(unit, {"t_M"}, SNIS))["conditional_U"])
        # what it would be with the denominators held fixed
        _, scale = step.rule.split(step.gradient)
        X = measured.entropy_gradient(unit)
        along = {name: -X[name] * scale[name] for name in X}
        t_M = M * step.update.per_prompt(step.passes.loss_rates(step.update.loss, along))
        fixed.append(ETA**2 * float(t_M.var()) / M)
    values = [e.value for e in found]
    calibrated(values, [e.var for e in found])
    if rule == "adamw":
        with pytest.raises(AssertionError):
            calibrated(values, fixed)
    else:
        assert fixed == pytest.approx([e.var for e in found], rel=1e-6)


@pytest.mark.slow
def test_of_the_prediction_over_E_and_U():
    values, unbiased_, doubled, N, M = [], [], [], 16, 6
    for policy, _, step, generator in steps("proxy", M, 500, 15):
        E = exact.sample(policy, N, 2, generator)
        measured = Measurement(policy, E, step, size=1000, ranks=exact.ONE, eta=ETA)
        names = ["vx_vy_unbiased", "vx_vy"]
        both = estimates(names, measured.terms("per_sequence", {"s_N", "t_M", "K_NM"}, SNIS))
        values.append(both["vx_vy_unbiased"].value)
        extra = both["vx_vy"].extra
        # without clipping at 0, which is for one probe
        unbiased_.append(ETA**2 * (extra["V_X"] + extra["V_Y"] - both["vx_vy_unbiased"].extra["V_XY"]))
        doubled.append(both["vx_vy"].var)
    calibrated(values, unbiased_)
    assert sum(doubled) > sum(unbiased_)
