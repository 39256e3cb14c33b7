"""The backends that can run here, and the oracle that all of them are held against."""

import os
from importlib.util import find_spec

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS = 7
OUTPUTS = ("logprobs", "entropies", "second_moments", "collision_probs")


def need(name):
    """Skip the test if a head cannot run here."""
    if name in ("triton", "trl") and not find_spec(name):
        pytest.skip(f"{name} is not installed")
    if name == "triton" and DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("there is no GPU, and TRITON_INTERPRET=1 is not set")


def oracle(hidden, weight, targets, temperature=1.0, softcap=None):
    """Everything at once, in float64, on the CPU; differentiable."""
    logits = hidden.double() @ weight.double().T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    logp = (logits / torch.as_tensor(temperature).double().reshape(-1, 1)).log_softmax(-1)
    p = logp.exp()
    return {
        "logprobs": logp.gather(-1, targets[:, None]).squeeze(-1),
        "entropies": -(p * logp).sum(-1),
        "second_moments": (p * logp**2).sum(-1),
        "collision_probs": (p * p).sum(-1),
    }


def data(rows=ROWS, hidden=8, vocabulary=37, seed=0, scale=1.0, dtype=torch.float32):
    """Leaves on the CPU; the first target is token 0 and the last one the last of the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    states = scale * torch.randn(rows, hidden, generator=generator)
    weight = torch.randn(vocabulary, hidden, generator=generator)
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    if rows:
        targets[0], targets[-1] = 0, vocabulary - 1
    return states.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def temperatures(rows, seed=3):
    return 0.4 + 1.6 * torch.rand(rows, generator=torch.Generator().manual_seed(seed))
