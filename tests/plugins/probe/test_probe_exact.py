"""Prediction, truth and entropy gradient against the exact entropy of a policy whose sequences are enumerated."""

import sys
from pathlib import Path

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.estimators.variance.entropy_change import predicted_change, predicted_change_reward_to_go
from uncollapse.estimators.variance.terms import Terms
from uncollapse.plugins.probe.estimation.measured_change import Measured, Weighting
from uncollapse.plugins.probe.estimation.measurement import Measurement
from uncollapse.plugins.probe.estimation.passes import Passes, inner, trained
from uncollapse.plugins.probe.estimation.sequences import entropy_gradient_weights, entropy_terms
from uncollapse.plugins.training.step.stages import to_batch

sys.path.insert(0, str(Path(__file__).parent))
import exact_model as exact

UNITS = ("per_sequence", "per_token_ratio", "per_seq_token_mean")
MODES = ("rb", "naive")
SNIS = Weighting()


def measurement(policy, rollouts, v, mode="rb", eta=1.0, size=1000):
    return Measurement(policy, rollouts, exact.Fixed(v), size=size, ranks=exact.ONE, eta=eta, mode=mode)


@pytest.fixture(scope="module", params=[1.0, 0.6], ids=["temperature 1", "temperature 0.6"])
def everything(request):
    """A policy, the sample that is its distribution, and a direction."""
    policy = exact.ExactPolicy(temperature=request.param)
    return policy, exact.enumeration(policy), exact.direction_of(policy)


def exact_slope(policy, v, unit, mode="rb"):
    return inner(exact.entropy_gradient(policy, unit, mode), v)


def test_the_model_is_what_it_is_said_to_be(everything):
    policy, rollouts, _ = everything
    logp, H, _ = exact.Exact(policy).tables()
    logp, H = logp.detach(), H.detach()
    assert float(logp.exp().sum()) == pytest.approx(exact.PROMPTS, abs=1e-12)
    assert H.std() > 0.3
    assert float((logp.exp() * H).sum()) == pytest.approx(-float((logp.exp() * logp).sum()), abs=1e-12)
    scores = policy(to_batch(rollouts))
    assert float(scores["logprobs"].detach().sum()) == pytest.approx(float((logp.exp() * logp).sum()) * 6**exact.LENGTH)
    # what is not on the mask, and what comes later, is not seen
    gradient = exact.entropy_gradient(policy, "per_sequence")
    assert all(bool(g.abs().max() > 1e-4) for g in gradient.values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("unit", UNITS)
class TestPrediction:
    def test_the_reverse_mode_gradient_is_that_of_the_exact_entropy(self, everything, unit, mode):
        policy, rollouts, v = everything
        found = measurement(policy, rollouts, v, mode).entropy_gradient(unit)
        for name, gradient in exact.entropy_gradient(policy, unit, mode).items():
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-10)

    def test_the_forward_mode_prediction_is_the_exact_derivative(self, everything, unit, mode):
        policy, rollouts, v = everything
        terms = measurement(policy, rollouts, v, mode).prediction_terms(unit)
        slope = exact_slope(policy, v, unit, mode)
        assert abs(slope) > 1e-4
        assert predicted_change(terms).value == pytest.approx(slope, abs=1e-10)
        if unit != "per_seq_token_mean":
            assert predicted_change_reward_to_go(terms).value == pytest.approx(slope, abs=1e-10)

    def test_it_is_the_finite_difference_of_the_exact_entropy(self, everything, unit, mode):
        policy, rollouts, v = everything
        step = 1e-5
        plus, minus = (exact.entropy(policy, unit, mode, v, sign * step) for sign in (1, -1))
        value = predicted_change(measurement(policy, rollouts, v, mode).prediction_terms(unit)).value
        assert value == pytest.approx((plus - minus) / (2 * step), abs=1e-6)

    def test_the_pathwise_part_alone_is_another_number(self, everything, unit, mode):
        policy, rollouts, v = everything
        terms = measurement(policy, rollouts, v, mode).prediction_terms(unit)
        simple = attrs.evolve(terms, S1=torch.zeros_like(terms.S1))
        assert abs(predicted_change(simple).value - exact_slope(policy, v, unit, mode)) > 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_without_the_derivative_of_the_length_it_is_another_number(everything, mode):
    policy, rollouts, v = everything
    terms = measurement(policy, rollouts, v, mode).prediction_terms("per_token_ratio")
    slope, T = exact_slope(policy, v, "per_token_ratio", mode), terms.T.sum()
    # both forms without their centring by h
    whole = float((terms.jH + terms.H * terms.S1).sum() / T)
    to_go = float((terms.jH + terms.Hj).sum() / T)
    assert whole == pytest.approx(to_go, abs=1e-10)
    assert abs(whole - slope) > 1e-4


def test_a_score_and_controls_have_mean_0(everything):
    policy, rollouts, v = everything
    terms = measurement(policy, rollouts, v).terms("per_sequence", {"z", "S1"}, SNIS)
    assert terms.z.mean(0).abs().max() < 1e-12
    assert terms.S1.std() > 0.1


def test_an_end_that_is_not_counted_is_seen(everything):
    policy, rollouts, v = everything
    ended = rollouts.mask & (rollouts.tokens == exact.END)
    cut = attrs.evolve(rollouts, mask=rollouts.mask & ~ended, rewards=torch.zeros_like(rollouts.rewards))
    # sequences that only ended have nothing left
    rates = Passes(policy, to_batch(cut), 1000, exact.ONE).forward_mode(v)
    assert abs(float(entropy_terms(rates, cut)["S1"].mean())) > 1e-4


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    unit=st.sampled_from(UNITS),
    mode=st.sampled_from(MODES),
    prompts=st.integers(1, 9),
    responses=st.integers(1, 3),
    size=st.integers(1, 30),
)
def test_reverse_and_forward_mode_agree_on_any_sample(seed, unit, mode, prompts, responses, size):
    policy, generator = exact.ExactPolicy(seed), torch.Generator().manual_seed(seed)
    rollouts, v = exact.sample(policy, prompts, responses, generator), exact.direction_of(policy, seed)
    measured = measurement(policy, rollouts, v, mode, size=size)
    forward = predicted_change(measured.prediction_terms(unit)).value
    assert inner(measured.entropy_gradient(unit), v) == pytest.approx(forward, rel=1e-12, abs=1e-12)
    # s_N is a partition of the same number
    assert float(measured.terms(unit, {"s_N"}, SNIS).s_N.mean()) == pytest.approx(forward, rel=1e-12, abs=1e-12)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), unit=st.sampled_from(UNITS), mode=st.sampled_from(MODES))
def test_the_prediction_is_the_derivative_of_the_truth_on_the_same_sample(seed, unit, mode):
    policy, generator = exact.ExactPolicy(seed), torch.Generator().manual_seed(seed)
    rollouts, v = exact.sample(policy, 6, 2, generator), exact.direction_of(policy, seed, size=0.5)
    measured, step = measurement(policy, rollouts, v, mode), 1e-5
    terms = measured.truth_terms(unit)
    plus, minus = (measured.truth(sign * step, SNIS).change(terms)[0] for sign in (1, -1))
    predicted = predicted_change(measured.prediction_terms(unit)).value
    assert (plus - minus) / (2 * step) == pytest.approx(predicted, abs=1e-6)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), order=st.randoms(use_true_random=False), more=st.integers(0, 4))
def test_all_terms_are_those_of_the_sequence_whatever_the_order_of_rows_and_the_padding(seed, order, more):
    policy, generator = exact.ExactPolicy(seed), torch.Generator().manual_seed(seed)
    rollouts, v = exact.sample(policy, 5, 2, generator), exact.direction_of(policy, seed)
    rows = list(range(len(rollouts.tokens)))
    order.shuffle(rows)
    fields = ("tokens", "mask", "turns", "logprobs", "rewards", "episodes", "groups", "lengths")
    mixed = attrs.evolve(rollouts, **{name: getattr(rollouts, name)[rows] for name in fields})
    padded = attrs.evolve(
        mixed,
        **{
            name: torch.nn.functional.pad(getattr(mixed, name), (0, more), value=fill)
            for name, fill in {"tokens": 1, "mask": False, "turns": -1, "logprobs": 0, "rewards": 0}.items()
        },
    )
    one, other = (measurement(policy, r, v, size=3).predicted_sums for r in (rollouts, padded))
    assert one.keys() == other.keys() == {"H", "T", "prompt", "jH", "S1", "Hj", "Tj"}
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-12, msg=name)


def test_terms_of_one_sequence_by_their_definition(everything):
    policy, _, v = everything
    rollouts = exact.rollouts_of([(1, (2, 1, 0)), (0, (1, 2, 2, 1)), (0, (0,))])
    outputs = Passes(policy, to_batch(rollouts), 2, exact.ONE).forward_mode(v)
    terms = entropy_terms(outputs, rollouts)
    for row, length in enumerate((3, 4, 1)):
        H, j, jH = (
            outputs[name][row, 1 : 1 + length].tolist() for name in ("entropies", "logprobs_rate", "entropies_rate")
        )
        expected = {
            "H": sum(H),
            "T": length,
            "jH": sum(jH),
            "S1": sum(j),
            "Hj": sum(j[t] * sum(H[t + 1 :]) for t in range(length)),
            "Tj": sum(j[t] * (length - 1 - t) for t in range(length)),
        }
        for name, value in expected.items():
            assert float(terms[name][row]) == pytest.approx(value, abs=1e-12), name


def test_gradient_weights_are_0_off_the_mask(everything):
    policy, rollouts, v = everything
    terms = measurement(policy, rollouts, v).predicted_sums
    for unit in UNITS:
        for weights in entropy_gradient_weights(terms, rollouts, unit):
            assert bool((weights[~rollouts.mask] == 0).all())


# --- the truth ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("eta", [0.3, -0.2])
def test_importance_sampling_measures_the_exact_change(everything, unit, mode, eta):
    policy, rollouts, v = everything
    measured = measurement(policy, rollouts, v, mode)
    terms = measured.truth_terms(unit)
    change = exact.entropy(policy, unit, mode, v, eta) - exact.entropy(policy, unit, mode)
    assert abs(change) > 1e-4
    for weighting in (SNIS, Weighting("is"), Weighting("clip", 1e9)):
        assert measured.truth(eta, weighting).change(terms)[0] == pytest.approx(change, abs=1e-10), weighting
    assert float(measured.truth(eta, SNIS).w.mean()) == pytest.approx(1, abs=1e-12)
    # the biased ones are other numbers
    clipped = measured.truth(eta, Weighting("clip", 1.05))
    assert 0 < clipped.done["clipped_fraction"] < 1 and float(clipped.w.max()) == pytest.approx(1.05)
    assert abs(clipped.change(terms)[0] - change) > 1e-4


def test_the_denominator_carries_the_weights_too(everything):
    policy, rollouts, v = everything
    measured = measurement(policy, rollouts, v)
    one, terms = measured.truth(0.3, SNIS), measured.truth_terms("per_token_ratio")
    wrong = float((one.w * one.h1).sum() / one.w.sum() / terms.T.mean() - terms.H.sum() / terms.T.sum())
    assert abs(wrong - one.change(terms)[0]) > 1e-4


@pytest.mark.parametrize("mode", ["snis", "clip", "psis", "is"])
@pytest.mark.parametrize("unit", UNITS)
def test_no_step_is_no_change(everything, unit, mode):
    policy, rollouts, v = everything
    measured = measurement(policy, rollouts, v)
    none = measured.truth(0.0, Weighting(mode))
    assert bool((none.w == 1).all()) and bool((none.log_weights == 0).all())
    change, se = none.change(measured.truth_terms(unit))
    assert change == 0 and se != se
    quality = none.weights_of(measured.truth_terms(unit))
    assert quality["ess"] == len(rollouts.tokens) and quality["ess_fraction"] == 1
    assert sum(quality["logw"]["histogram"]["counts"]) == len(rollouts.tokens)


def test_an_estimate_that_is_not_normalised_is_plainly_the_mean():
    H, T = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])
    log_weights = torch.tensor([0.5, 2.0], dtype=torch.float64).log()
    h1 = torch.tensor([2.0, 4.0], dtype=torch.float64)
    one = Measured(1.0, log_weights, log_weights, h1, {}, "is")
    found = {unit: one.change(Terms(H=H, T=T, entropy_unit=unit))[0] for unit in UNITS}
    assert found["per_sequence"] == pytest.approx((0.5 * 2 + 2 * 4) / 2 - 2)
    assert found["per_seq_token_mean"] == pytest.approx((0.5 * 2 + 2 * 4 / 2) / 2 - 1.25)
    assert found["per_token_ratio"] == pytest.approx((0.5 * 2 + 2 * 4) / (0.5 * 1 + 2 * 2) - 4 / 3)


@pytest.mark.parametrize("mode", ["snis", "clip", "psis", "is"])
@pytest.mark.parametrize("shift", [-800.0, 800.0])
def test_weights_outside_float64_give_no_wrong_number(mode, shift):
    """All weights underflow to 0, or overflow: normalised, they are equal."""
    generator = torch.Generator().manual_seed(1)
    log_weights = torch.full((40,), shift, dtype=torch.float64)
    H, h1 = (torch.rand(40, generator=generator, dtype=torch.float64) for _ in range(2))
    terms = Terms(H=H, T=torch.ones(40))
    used, done = Weighting(mode).apply(log_weights)
    measured = Measured(1.0, log_weights, used, h1, done, mode)
    value, _ = measured.change(terms)
    if mode == "is":
        assert value == (pytest.approx(-float(H.mean())) if shift < 0 else float("inf"))
    else:
        assert value == pytest.approx(float(h1.mean() - H.mean()))
    assert measured.weights_of(terms)["ess"] == pytest.approx(40)
    measured.weights_of(terms)


def test_no_parameter_has_a_gradient_afterwards(everything):
    policy, rollouts, v = everything
    policy.train()
    before = {name: p.detach().clone() for name, p in trained(policy).items()}
    measured = measurement(policy, rollouts, v)
    measured.entropy_gradient("per_sequence")
    measured.truth(0.1, SNIS)
    assert policy.training
    for name, p in trained(policy).items():
        assert p.grad is None and torch.equal(p, before[name])
