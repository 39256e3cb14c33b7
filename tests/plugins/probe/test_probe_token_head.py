"""The token head under forward-mode differentiation, whole and in chunks, against dense formulas in float64."""

import pytest
import torch
from torch.autograd import forward_ad
from uncollapse.plugins.training.networks import token_head

TOKENS, HIDDEN, VOCABULARY = 37, 16, 53


def data(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, weight = normal(TOKENS, HIDDEN), 0.4 * normal(VOCABULARY, HIDDEN)
    rates = normal(TOKENS, HIDDEN), 0.4 * normal(VOCABULARY, HIDDEN)
    targets = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    return [x.to(dtype) for x in (hidden, weight, *rates)], targets


def dense(hidden, weight, hidden_rate, weight_rate, targets, temperature, softcap):
    """j = a'_y - sum p a' and D H = -sum p (log p) (a' - sum p a'), all of the vocabulary at once."""
    a, rate = hidden @ weight.T, hidden_rate @ weight.T + hidden @ weight_rate.T
    if softcap:
        rate = rate * (1 - torch.tanh(a / softcap) ** 2)
        a = softcap * torch.tanh(a / softcap)
    a, rate = a / temperature, rate / temperature
    logp = a.log_softmax(-1)
    p = logp.exp()
    centred = rate - (p * rate).sum(-1, keepdim=True)
    rows = torch.arange(TOKENS)
    return logp[rows, targets], -(p * logp).sum(-1), centred[rows, targets], -(p * logp * centred).sum(-1)


@pytest.mark.parametrize("gradients", [True, False], ids=["grad mode", "no_grad"])
@pytest.mark.parametrize("entropy", ["value", "gradient"])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("chunk", [1, 5 * VOCABULARY, 10**6])
def test_rates_are_those_of_the_dense_formulas(monkeypatch, chunk, temperature, softcap, entropy, gradients):
    calls, own = [], token_head._chunk
    monkeypatch.setattr(token_head, "_chunk", lambda *a, **k: calls.append(1) or own(*a, **k))
    values, targets = data()
    hidden, weight, hidden_rate, weight_rate = values
    with torch.set_grad_enabled(gradients), forward_ad.dual_level():
        found = token_head.token_logprobs(
            forward_ad.make_dual(hidden, hidden_rate),
            forward_ad.make_dual(weight, weight_rate),
            targets,
            temperature,
            softcap,
            entropy,
            chunk_elements=chunk,
        )
        duals = [forward_ad.unpack_dual(x) for x in found]
        primals, tangents = [d.primal.double() for d in duals], [d.tangent.double() for d in duals]
    expected = dense(*(x.double() for x in values), targets, temperature, softcap)
    for ours, theirs in zip([*primals, *tangents], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5 * float(theirs.abs().max()))
    assert len(calls) == {1: TOKENS, 5 * VOCABULARY: 8, 10**6: 1}[chunk]


def test_rates_are_differences_of_values():
    """Against the values themselves, in float64 up to the head's own float32."""
    (hidden, weight, hidden_rate, weight_rate), targets = data()
    step = 1e-2
    plus, minus = (
        token_head.token_logprobs(hidden + s * step * hidden_rate, weight + s * step * weight_rate, targets, 0.8)
        for s in (1, -1)
    )
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(hidden, hidden_rate), forward_ad.make_dual(weight, weight_rate)]
        found = [forward_ad.unpack_dual(x).tangent for x in token_head.token_logprobs(*duals, targets, 0.8)]
    for rate, up, down in zip(found, plus, minus, strict=True):
        difference = (up - down) / (2 * step)
        torch.testing.assert_close(rate, difference, rtol=0.02, atol=0.02 * float(difference.abs().max()))


def test_a_frozen_output_embedding_and_no_tokens():
    (hidden, weight, hidden_rate, _), targets = data()
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(hidden, hidden_rate)
        found = [forward_ad.unpack_dual(x).tangent for x in token_head.token_logprobs(dual, weight, targets)]
        none = token_head.token_logprobs(dual[:0], weight, targets[:0])
    expected = dense(*(x.double() for x in (hidden, weight, hidden_rate, torch.zeros_like(weight))), targets, 1, None)
    for ours, theirs in zip(found, expected[2:], strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=1e-4)
    assert [x.shape for x in none] == [(0,), (0,)]


@pytest.mark.parametrize("chunk", [1, 7 * VOCABULARY, 10**6])
def test_peaked_and_flat_distributions(chunk):
    """Where the entropy is nearly 0, or as large as it can be, its derivative is small, and no NaN."""
    (hidden, weight, hidden_rate, weight_rate), targets = data()
    for factor in (0.0, 300.0):
        with torch.no_grad(), forward_ad.dual_level():
            found = token_head.token_logprobs(
                forward_ad.make_dual(factor * hidden, hidden_rate),
                forward_ad.make_dual(weight, weight_rate),
                targets,
                chunk_elements=chunk,
            )
            rates = [forward_ad.unpack_dual(x).tangent for x in found]
        assert all(bool(x.isfinite().all()) for x in (*found, *rates))
        assert factor or float(rates[1].abs().max()) < 1e-4
