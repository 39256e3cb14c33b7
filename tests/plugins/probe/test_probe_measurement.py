"""The inner products that the variance estimators read, and which passes are run for what."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad
from uncollapse.core.registry import registry
from uncollapse.estimators.variance.entropy_change import predicted_change
from uncollapse.estimators.variance.terms import Terms
from uncollapse.plugins.probe.estimation.directions import AdamW, PreconditionedGradient
from uncollapse.plugins.probe.estimation.measured_change import Weighting
from uncollapse.plugins.probe.estimation.measurement import Measurement
from uncollapse.plugins.probe.estimation.passes import inner, trained
from uncollapse.plugins.probe.estimation.sequences import entropy_terms, per_prompt
from uncollapse.plugins.probe.estimation.step import Step

sys.path.insert(0, str(Path(__file__).parent))
import exact_model as exact

N, M = 6, 4
UNITS = ("per_sequence", "per_token_ratio", "per_seq_token_mean")
SNIS = Weighting()


class Watched(exact.ExactPolicy):
    """Counts its calls by the kind of pass."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.calls = Counter()

    def forward(self, batch, entropy="value"):
        dual = forward_ad._current_level >= 0
        self.calls["reverse" if entropy == "gradient" else "forward-mode" if dual else "forward"] += 1
        return super().forward(batch, entropy)


def setting(rule="adamw", mode="rb", max_norm=0.0, rows=100, eta=0.05):
    policy = Watched(3)
    generator = torch.Generator().manual_seed(4)
    U, E = exact.sample(policy, M, 3, generator), exact.sample(policy, N, 2, generator)
    adam = exact.adam_of(policy)
    own = AdamW(adam, trained(policy), max_norm) if rule == "adamw" else PreconditionedGradient(adam)
    step = Step(policy, exact.update_of(U), own, size=rows, ranks=exact.ONE)
    policy.calls.clear()
    return policy, Measurement(policy, E, step, size=rows, ranks=exact.ONE, eta=eta, mode=mode)


@pytest.mark.parametrize("mode", ["rb", "naive"])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("rule", "max_norm"), [("proxy", 0.0), ("adamw", 0.0), ("adamw", 0.02)])
def test_products_are_partitions_of_the_prediction(rule, max_norm, unit, mode):
    _, measured = setting(rule, mode, max_norm)
    terms = measured.terms(unit, {"s_N", "t_M", "K_NM", "jH"}, SNIS)
    D = predicted_change(measured.prediction_terms(unit)).value / measured.eta
    assert terms.s_N.shape == (N,) and terms.t_M.shape == (M,) and terms.K_NM.shape == (N, M)
    assert terms.s_N.std() > 1e-3 and terms.t_M.std() > 1e-3
    assert inner(measured.entropy_gradient(unit), measured.step.direction) == pytest.approx(D, rel=1e-10)
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(terms.s_N.mean(), torch.tensor(D).double(), **close)
    torch.testing.assert_close(terms.t_M.mean(), torch.tensor(D).double(), **close)
    # the changes of the gradient by one prompt sum to 0, so this holds for every direction
    torch.testing.assert_close(terms.K_NM.mean(1), terms.s_N, **close)
    torch.testing.assert_close(terms.K_NM.mean(0), terms.t_M, **close)


def test_of_the_preconditioned_gradient_the_products_are_exact():
    """K_np is what prompt n would give if the update batch were prompt p alone, M times."""
    _, measured = setting("proxy")
    K = measured.terms("per_sequence", {"K_NM"}, SNIS).K_NM
    for p, gradient in enumerate(measured.step.prompt_gradients()):
        direction = measured.step.rule.direction(gradient)
        outputs = measured.passes.forward_mode(direction)
        own = per_prompt(Terms(**entropy_terms(outputs, measured.rollouts)))
        torch.testing.assert_close(K[:, p], own, rtol=1e-8, atol=1e-8)


def test_noise_of_the_gradient_has_the_sizes_that_are_named():
    _, measured = setting()
    terms = measured.terms("per_sequence", {"grad_sq_R", "grad_sizes_R"}, SNIS)
    norms = [inner(g, g) for g in measured.step.prompt_gradients()]
    assert terms.grad_sizes_R.tolist() == [1, M]
    whole = inner(measured.step.gradient, measured.step.gradient)
    assert terms.grad_sq_R.tolist() == pytest.approx([sum(norms) / M, whole])


def needs(*names):
    return set().union(*(registry().create("variance", name).needs for name in names))


@pytest.mark.parametrize(
    ("wanted", "etas", "passes"),
    [
        (needs("deriv_delta", "deriv_delta_reward_to_go", "conditional_E", "cv_batch_se"), 0, {"forward-mode": 1}),
        (needs("snis_delta", "snis_ess"), 1, {"forward": 2}),
        (needs("snis_delta"), 3, {"forward": 4}),
        (needs("deriv_delta", "snis_delta", "paired_difference"), 2, {"forward-mode": 1, "forward": 3}),
        (needs("entropy_prompt_jackknife", "deriv_delta"), 0, {"forward-mode": 1}),
        # on E forward-mode and reverse, on U forward-mode
        (needs("conditional_U"), 0, {"forward-mode": 2, "reverse": 1}),
        (needs("vx_vy"), 0, {"forward-mode": 2, "reverse": 1}),
        # besides, a reverse pass over each prompt of U and a forward-mode pass over E along each
        (needs("vx_vy_unbiased"), 0, {"forward-mode": 2 + M, "reverse": 1 + M}),
    ],
)
def test_only_the_passes_that_are_needed_are_run(wanted, etas, passes):
    policy, measured = setting()
    measured.step.direction  # noqa: B018 - one reverse pass over U, in every probe
    assert policy.calls == {"reverse": 1}
    policy.calls.clear()
    measured.terms("per_sequence", wanted, SNIS)
    for k in range(etas):
        for unit in UNITS:  # all from the same passes
            measured.truth(measured.eta * (1 + k), SNIS).change(measured.truth_terms(unit))
    if "jH" in wanted:
        for unit in UNITS:
            measured.terms(unit, wanted, SNIS)
    assert policy.calls == passes


@pytest.mark.parametrize("mode", ["rb", "naive"])
def test_terms_of_the_truth_hold_the_entropies_of_its_own_pass(mode):
    _, measured = setting(mode=mode)
    terms = measured.terms("per_sequence", needs("paired_difference"), SNIS)
    assert torch.equal(terms.H, measured.base_sums["H"])
    assert torch.equal(terms.w, measured.truth(measured.eta, SNIS).w) and terms.eta == measured.eta
    torch.testing.assert_close(terms.H, measured.predicted_sums["H"], rtol=1e-12, atol=0)


def test_the_change_grows_with_the_square_of_the_step_beyond_the_prediction():
    """Prediction and truth stand on one step object: their difference is curvature, of second order."""
    _, measured = setting(eta=1e-2)
    terms = measured.truth_terms("per_sequence")
    D = predicted_change(measured.prediction_terms("per_sequence")).value / measured.eta
    gaps = [measured.truth(eta, SNIS).change(terms)[0] - eta * D for eta in (1e-2, 5e-3, 2.5e-3)]
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1) and gaps[1] / gaps[2] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_micro_batches_do_not_matter(rows):
    one, other = (setting(rows=size)[1] for size in (100, rows))
    for unit in UNITS:
        names = {"s_N", "t_M", "K_NM", "z", "grad_sq_R", "w", "h1"}
        first, second = (measured.terms(unit, names, SNIS) for measured in (one, other))
        for name in names:
            torch.testing.assert_close(second[name], first[name], rtol=1e-8, atol=1e-10, msg=name)
