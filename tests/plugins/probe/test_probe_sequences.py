"""Sums over sequences, token by token in plain loops: several rows and turns to a sequence, in any order."""

import sys
from pathlib import Path

import pytest
import torch
from uncollapse.estimators.variance.terms import Terms
from uncollapse.plugins.probe.estimation.sequences import (
    by_others,
    entropy_gradient_weights,
    entropy_terms,
    per_prompt,
    weight_terms,
)

sys.path.insert(0, str(Path(__file__).parent))
from probe_rows import GROUPS_E, LENGTHS, MASK, ROLLOUTS, tables, tokens_of

UNITS = ("per_token_ratio", "per_seq_token_mean", "per_sequence")
COUNT = len(LENGTHS)
OUTPUTS = tables()


@pytest.mark.parametrize("mode", ["rb", "naive"])
def test_terms_token_by_token(mode):
    found = entropy_terms(OUTPUTS, ROLLOUTS, mode)
    assert found["prompt"].tolist() == GROUPS_E.tolist()
    for e in range(COUNT):
        places = tokens_of(e)
        assert len(places) == LENGTHS[e]
        H = [-float(OUTPUTS["logprobs"][p]) if mode == "naive" else float(OUTPUTS["entropies"][p]) for p in places]
        j = [float(OUTPUTS["logprobs_rate"][p]) for p in places]
        jH = [-x for x in j] if mode == "naive" else [float(OUTPUTS["entropies_rate"][p]) for p in places]
        own = 0 if mode == "naive" else 1  # a naive entropy is among what comes after its token
        expected = {
            "H": sum(H),
            "T": len(places),
            "jH": sum(jH),
            "S1": sum(j),
            "Hj": sum(j[t] * sum(H[t + own :]) for t in range(len(H))),
            "Tj": sum(j[t] * (len(H) - t - 1) for t in range(len(H))),
        }
        assert {name: float(found[name][e]) for name in expected} == pytest.approx(expected), e


def test_without_derivatives_there_are_none():
    base = {name: OUTPUTS[name] for name in ("logprobs", "entropies")}
    assert entropy_terms(base, ROLLOUTS).keys() == {"H", "T", "prompt"}


@pytest.mark.parametrize("mode", ["rb", "naive"])
def test_weights_are_of_all_tokens_of_a_sequence(mode):
    moved = tables(8)
    log_weights, h1 = weight_terms(OUTPUTS, moved, ROLLOUTS, mode)
    for e in range(COUNT):
        places = tokens_of(e)
        assert float(log_weights[e]) == pytest.approx(
            sum(float(moved["logprobs"][p] - OUTPUTS["logprobs"][p]) for p in places)
        )
        expected = sum(
            -float(moved["logprobs"][p]) if mode == "naive" else float(moved["entropies"][p]) for p in places
        )
        assert float(h1[e]) == pytest.approx(expected)


def per_sequence(unit, centring=(1.0,) * COUNT):
    """[(score weight, entropy weight)] of each sequence, whose weighted sums of S1 and jH are the derivative."""
    terms = entropy_terms(OUTPUTS, ROLLOUTS)
    H, T = terms["H"].tolist(), terms["T"].tolist()
    if unit == "per_token_ratio":
        h, each = sum(H) / sum(T), [1 / sum(T)] * COUNT
        score = [(x - h * t) / sum(T) for x, t in zip(H, T, strict=True)]
    elif unit == "per_seq_token_mean":
        each = [1 / t / COUNT for t in T]
        mean = sum(x / t for x, t in zip(H, T, strict=True)) / COUNT
        score = [(x / t - mean) / COUNT for x, t in zip(H, T, strict=True)]
    else:
        each, score = [1 / COUNT] * COUNT, [(x - sum(H) / COUNT) / COUNT for x in H]
    return [(s * c, x) for s, c, x in zip(score, centring, each, strict=True)]


@pytest.mark.parametrize("mode", ["rb", "naive"])
@pytest.mark.parametrize("unit", UNITS)
def test_weights_of_the_gradient(unit, mode):
    terms, centring = entropy_terms(OUTPUTS, ROLLOUTS), torch.tensor([1.0, 2.0, 0.5, 3.0, 0.2]).double()
    a, b = entropy_gradient_weights(terms, ROLLOUTS, unit, mode, centring)
    assert bool((a[~MASK] == 0).all()) and bool((b[~MASK] == 0).all())
    for e, (score, share) in enumerate(per_sequence(unit, centring.tolist())):
        for place in tokens_of(e):
            expected = (score - share, 0.0) if mode == "naive" else (score, share)
            assert (float(a[place]), float(b[place])) == pytest.approx(expected)


@pytest.mark.parametrize("unit", UNITS)
def test_prompts_have_the_derivative_as_their_mean(unit):
    terms = entropy_terms(OUTPUTS, ROLLOUTS)
    own = [s * float(terms["S1"][e]) + x * float(terms["jH"][e]) for e, (s, x) in enumerate(per_sequence(unit))]
    found = per_prompt(Terms(entropy_unit=unit, **terms))
    assert found.tolist() == pytest.approx([3 * (own[1] + own[2]), 3 * own[4], 3 * (own[0] + own[3])])  # 4, 17 and 30
    alone = per_prompt(Terms(entropy_unit=unit, **{k: x for k, x in terms.items() if k != "prompt"}))
    assert alone.tolist() == pytest.approx([COUNT * x for x in own])


def test_centred_by_all_others():
    T = torch.tensor([1.0, 3.0, 6.0, 4.0]).double()
    assert by_others({"T": T}, "per_token_ratio").tolist() == pytest.approx([14 / 13, 14 / 11, 14 / 8, 14 / 10])
    assert by_others({"T": T}, "per_sequence").tolist() == pytest.approx([4 / 3] * 4)
    assert by_others({"T": T[:1]}, "per_token_ratio").tolist() == [1.0]
    assert by_others({"T": T[:2]}, "per_sequence").tolist() == [2.0, 2.0]
