import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.plugins.training.networks.token_head import token_logprobs


def dense(hidden, weight, targets, temperature, softcap=None):
    """The oracle: everything at once, in float64."""
    logits = hidden.double() @ weight.double().T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    logprobs = (logits / temperature).log_softmax(-1)
    return logprobs.gather(-1, targets[:, None]).squeeze(-1), -(logprobs.exp() * logprobs).sum(-1)


def data(tokens=37, hidden=16, vocabulary=53, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(tokens, hidden, generator=generator).requires_grad_(),
        torch.randn(vocabulary, hidden, generator=generator).requires_grad_(),
        torch.randint(0, vocabulary, (tokens,), generator=generator),
    )


@pytest.mark.parametrize(
    ("logits", "entropy"), [([0.0] * 4, 1.386294), ([10, 0, 0, 0], 0.001499), ([1, 2, 3, 4], 0.947537)]
)
def test_entropy_of_known_logits(logits, entropy):
    weight = torch.tensor(logits, dtype=torch.float32)[:, None]
    _, found = token_logprobs(torch.ones(1, 1), weight, torch.tensor([0]))
    assert float(found) == pytest.approx(entropy, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    chunk=st.integers(1, 53 * 40), temperature=st.sampled_from([0.5, 1.0, 1.7]), softcap=st.sampled_from([None, 5.0])
)
def test_values_and_gradients_equal_the_dense_oracle_for_every_chunk_size(chunk, temperature, softcap):
    hidden, weight, targets = data()
    weights = torch.linspace(-1, 1, len(targets))
    outputs = token_logprobs(hidden, weight, targets, temperature, softcap, "gradient", chunk)
    expected = dense(hidden, weight, targets, temperature, softcap)
    for output, oracle in zip(outputs, expected, strict=True):
        assert torch.allclose(output.double(), oracle, atol=1e-4)
        found = torch.autograd.grad((output * weights).sum(), (hidden, weight), retain_graph=True)
        wanted = torch.autograd.grad((oracle * weights).sum(), (hidden, weight), retain_graph=True)
        for ours, theirs in zip(found, wanted, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-3)


def test_entropy_without_gradient_still_has_its_value():
    hidden, weight, targets = data()
    logprobs, entropies = token_logprobs(hidden, weight, targets, entropy="value", chunk_elements=53 * 8)
    assert logprobs.requires_grad
    assert torch.allclose(entropies.double(), dense(hidden, weight, targets, 1.0)[1], atol=1e-5)
    loss = (logprobs + 0 * entropies).sum()
    assert torch.isfinite(torch.autograd.grad(loss, hidden)[0]).all()


def test_bfloat16_hidden_states_are_scored_in_fp32():
    hidden, weight, targets = data(vocabulary=5000)
    low = hidden.detach().bfloat16(), weight.detach().bfloat16()
    logits = low[0] @ low[1].T
    logprobs, entropies = token_logprobs(*low, targets)
    oracle = logits.double().log_softmax(-1)
    assert logprobs.dtype == entropies.dtype == torch.float32
    assert torch.allclose(logprobs.double(), oracle.gather(-1, targets[:, None]).squeeze(-1), atol=1e-4)
    assert torch.allclose(entropies.double(), -(oracle.exp() * oracle).sum(-1), atol=1e-4)


def test_never_holds_all_logits_at_once(monkeypatch):
    largest = 0
    original = torch.Tensor.float

    def watch(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return original(tensor)

    monkeypatch.setattr(torch.Tensor, "float", watch)
    hidden, weight, targets = data(tokens=64)
    logprobs, entropies = token_logprobs(hidden, weight, targets, entropy="gradient", chunk_elements=53 * 8)
    (logprobs.sum() + entropies.sum()).backward()
    assert 0 < largest <= 53 * 8
