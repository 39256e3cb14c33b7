"""The terms that a measurement hands to estimators: what each is made of, and that no pass is run that none needs."""

import sys
from pathlib import Path

import pytest
import torch
from uncollapse.plugins.probe.estimation.measured_change import Weighting
from uncollapse.plugins.probe.estimation.measurement import Measurement
from uncollapse.plugins.probe.estimation.sequences import by_others, per_prompt

sys.path.insert(0, str(Path(__file__).parent))
import exact_model as exact
from uncollapse.plugins.probe.estimation.directions import AdamW
from uncollapse.plugins.probe.estimation.step import Step

UNIT = "per_token_ratio"


@pytest.fixture(scope="module")
def played():
    """A policy, 5 prompts of E with 2 responses each, and the step of 4 prompts of U."""
    policy = exact.ExactPolicy(4)
    U = exact.sample(policy, 4, 4, torch.Generator().manual_seed(2))
    E = exact.sample(policy, 5, 2, torch.Generator().manual_seed(3))
    rule = AdamW(exact.adam_of(policy), {name: p.detach() for name, p in policy.named_parameters()})
    return policy, E, Step(policy, exact.update_of(U), rule, size=5, ranks=exact.ONE)


def measurement(played, **options):
    policy, E, step = played
    return Measurement(policy, E, step, size=2, ranks=exact.ONE, eta=0.1, **options)


def test_entropies_alone_take_no_derivative(played):
    measured = measurement(played)
    terms = measured.terms(UNIT, {"H", "T"}, None)
    assert torch.equal(terms.H, measured.base_sums["H"]) and "rates" not in vars(measured)
    assert (terms.eta, terms.entropy_unit, terms.S1, terms.w) == (0.1, UNIT, None, None)
    weighed = measured.terms(UNIT, {"w", "h1"}, Weighting())
    assert weighed.w is not None and "rates" not in vars(measured)


def test_the_prediction_alone_takes_no_truth(played):
    measured = measurement(played)
    terms = measured.terms(UNIT, {"s_N"}, None)
    assert "base" not in vars(measured) and measured._measured == {} and measured._gradients == {}
    torch.testing.assert_close(terms.s_N, per_prompt(measured.prediction_terms(UNIT)))
    assert (terms.w, terms.h1, terms.t_M, terms.K_NM, terms.z, terms.shard, terms.grad_sq_R) == (None,) * 7


def test_control_variates_and_shards(played):
    measured = measurement(played)
    terms, raw = measured.terms(UNIT, {"z", "shard"}, None), measured.predicted_sums
    torch.testing.assert_close(terms.z[:, 0], raw["S1"])
    torch.testing.assert_close(terms.z[:, 1], raw["T"] * raw["S1"] - raw["Tj"])
    assert terms.shard.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]  # two prompts of two sequences each
    assert terms.s_N is None


def test_scores_are_centred_by_the_others_where_the_prediction_stands_alone(played):
    plain, unbiased = measurement(played), measurement(played, unbiased=True)
    raw = unbiased.predicted_sums
    assert torch.equal(plain.terms(UNIT, {"S1"}, None).S1, raw["S1"])
    centred = by_others(raw, UNIT) * raw["S1"]
    assert torch.equal(unbiased.terms(UNIT, {"S1"}, None).S1, centred)
    assert torch.equal(unbiased.prediction_terms(UNIT).S1, centred)
    beside = unbiased.terms(UNIT, {"S1", "w", "h1"}, Weighting())
    assert torch.equal(beside.S1, raw["S1"]) and torch.equal(beside.H, unbiased.base_sums["H"])


@pytest.mark.parametrize("unbiased", [False, True])
def test_products_of_prompts_of_both_batches_have_the_means_that_they_should(played, unbiased):
    measured = measurement(played, unbiased=unbiased)
    terms = measured.terms(UNIT, {"s_N", "t_M", "K_NM"}, None)
    assert terms.K_NM.shape == (5, 4) and terms.K_NM.std() > 0
    torch.testing.assert_close(terms.K_NM.mean(1), terms.s_N, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(terms.K_NM.mean(0), terms.t_M, rtol=1e-6, atol=1e-9)


def test_passes_are_run_once(played):
    measured = measurement(played)
    assert measured.entropy_gradient(UNIT) is measured.entropy_gradient(UNIT)
    assert measured.truth(0.1, Weighting()) is measured.truth(0.1, Weighting())
    assert measured.truth(0.2, Weighting()) is not measured.truth(0.1, Weighting())
