"""Token heads are held against dense formulas in float64, on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peers import Contender, ours
from torch import Tensor
from uncollapse.plugins.training.heads.triton_head import Triton

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


def inputs(rows: int, hidden: int, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """bf16; rows from nearly uniform to nearly certain. The last target is the last token."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    scales = torch.linspace(0.3, 12, rows, device=DEVICE)[torch.randperm(rows, generator=generator, device=DEVICE)]
    states = scales[:, None] * torch.randn(rows, hidden, generator=generator, device=DEVICE)
    weight = torch.randn(vocabulary, hidden, generator=generator, device=DEVICE) * hidden**-0.5
    targets = torch.randint(0, vocabulary, (rows,), generator=generator, device=DEVICE)
    targets[-1] = vocabulary - 1
    return states.bfloat16().requires_grad_(), weight.bfloat16().requires_grad_(), targets


def oracle(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: Any = 1.0, softcap: float | None = None
) -> tuple[Tensor, ...]:
    """float64, dense."""
    logits = hidden.double() @ weight.double().T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    logp = (logits / torch.as_tensor(temperature, device=DEVICE).double().reshape(-1, 1)).log_softmax(-1)
    p = logp.exp()
    return logp.gather(-1, targets[:, None]).squeeze(-1), -(p * logp).sum(-1), (p * logp**2).sum(-1)


def relative(found: Tensor, expected: Tensor) -> Tensor:
    """The norm of the difference over the norm."""
    return (found.double() - expected.double()).norm() / expected.double().norm()


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """An operation that makes the host wait for the device is an error."""
    if CUDA:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if CUDA:
            torch.cuda.set_sync_debug_mode("default")


def errors(
    run: Contender, data: tuple[Tensor, Tensor, Tensor], by_outputs: list[Tensor], picked: Tensor, exact: dict
) -> dict[str, float]:
    """Largest error of each output on the picked rows (nats), and the gradient's by hidden relative to its norm."""
    hidden, weight, targets = data
    found = run(hidden, weight, targets)
    result = {
        name: float((x.detach()[picked].double() - y).abs().max())
        for name, x, y in zip(("logprob", "entropy", "second_moment"), found, exact["outputs"], strict=False)
    }
    loss = sum((x * w).sum() for x, w in zip(found[:2], by_outputs, strict=True))
    result["gradient"] = float(relative(torch.autograd.grad(loss, hidden)[0][picked], exact["gradient"]))
    return result


def exact_rows(data: tuple[Tensor, Tensor, Tensor], by_outputs: list[Tensor], picked: Tensor) -> dict[str, Any]:
    hidden, weight, targets = data
    rows = hidden.detach()[picked].double().requires_grad_()
    outputs = oracle(rows, weight.detach(), targets[picked])
    loss = sum((x * w[picked].double()).sum() for x, w in zip(outputs[:2], by_outputs, strict=True))
    return {"gradient": torch.autograd.grad(loss, rows)[0], "outputs": [x.detach() for x in outputs]}


def parity(small: bool) -> list[str]:
    """Hold values and gradients of the Triton head against dense float64; returns what is wrong.

    The bf16 inputs are such that bf16 holds every logit exactly, so that nothing but the gradients is rounded.
    """
    rows, hidden_size, vocabulary = (9, 64, 70) if small else (300, 256, 10_007)
    heads = {
        "one tile": Triton(),
        "tiles": Triton(rows=rows, columns=vocabulary // 3),
        "tiles and parts": Triton(rows=rows // 3, columns=vocabulary // 4),
        "float32 logits": Triton(rows=rows // 2, columns=vocabulary // 2, float32_logits=True),
    }
    wrong = []
    temperature = torch.linspace(0.5, 1.5, rows, device=DEVICE)
    wanted: dict[str, Any] = {"entropy": "gradient", "second_moment": "gradient"}
    for dtype, most in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
        hidden, weight, targets = inputs(rows, hidden_size, vocabulary)
        if dtype == torch.bfloat16:
            steps = 2.0 ** torch.randint(-2, 2, (rows, 1), device=DEVICE)
            hidden, weight = hidden.detach().sign() * steps, weight.detach().sign() / 8
        hidden, weight = (x.detach().to(dtype).requires_grad_() for x in (hidden, weight))
        for label, head in heads.items():
            for softcap in (None, 8.0):
                found = head(hidden, weight, targets, temperature=temperature, softcap=softcap, **wanted)
                outputs = (found.logprobs, found.entropies, found.second_moments)
                values, gradients = [], []
                for x, y in zip(outputs, oracle(hidden, weight, targets, temperature, softcap), strict=True):
                    values.append(((x - y).abs() / (1 + y.abs())).detach().max())
                    losses = ((z * torch.linspace(-1, 1, rows, device=DEVICE).double()).sum() for z in (x, y))
                    pairs = zip(
                        *(torch.autograd.grad(z, (hidden, weight), retain_graph=True) for z in losses), strict=True
                    )
                    gradients += [relative(a, b) for a, b in pairs]
                value, gradient = (float(torch.stack(found).max()) for found in (values, gradients))
                passed = value <= 1e-4 and gradient <= most  # which NaN is not
                line = f"{str(dtype)[6:]:<9} {label:<16} softcap {softcap!s:<5}"
                print(
                    f"parity {line} values {value:.1e} (at most 1e-04)  gradients {gradient:.1e} (at most {most:.0e})"
                )
                wrong += [] if passed else [f"parity of {' '.join(line.split())}"]
    hidden, weight, targets = inputs(rows, hidden_size, vocabulary)
    try:
        with no_synchronisation():
            outputs = ours(heads["tiles and parts"], "gradient")(hidden, weight, targets)
            torch.autograd.grad(outputs, (hidden, weight), [torch.ones_like(x) for x in outputs])
    except RuntimeError as error:
        wrong.append(f"the host waits for the device: {error}")
    print(f"parity: {'failed: ' + '; '.join(wrong) if wrong else 'passed, without host synchronisation'}")
    return wrong
