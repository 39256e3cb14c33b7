"""Seeded inputs of the vectors that other implementations compute, and how the vectors are written."""

from __future__ import annotations

import datetime
import json
from importlib.metadata import version
from pathlib import Path

import torch

HERE = Path(__file__).parent


def rows(seed: int, rows: int = 6, tokens: int = 9, spread: float = 0.5, one_per_row: bool = False):
    """Log-probs, old and sampler's log-probs, advantages, entropies [B, T] in float64, and a mask.

    Rows have different lengths, gaps of unsampled tokens, and ratios on both sides of every bound that is in use.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logprobs = -normal(rows, tokens).abs() - 0.05
    old = (logprobs + spread * normal(rows, tokens)).clamp(max=-1e-3)
    sampler = (old + 0.1 * normal(rows, tokens)).clamp(max=-1e-3)
    advantages = normal(rows, 1).expand(rows, tokens).clone() if one_per_row else 2 * normal(rows, tokens)
    entropies = normal(rows, tokens).abs()
    lengths = torch.randint(2, tokens + 1, (rows, 1), generator=generator)
    mask = (torch.arange(tokens)[None, :] < lengths) & (torch.rand(rows, tokens, generator=generator) > 0.15)
    mask[:, 0] = True
    return {
        "logprobs": logprobs,
        "old_logprobs": old,
        "sampler_logprobs": sampler,
        "advantages": advantages * mask,
        "entropies": entropies,
        "mask": mask,
    }


def plain(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def write(name: str, package: str, inputs: dict, cases: list[dict]) -> None:
    """``NAME.json`` beside this file: the inputs by name and the cases, with the package's version and the day."""
    about = {"package": package, "version": version(package), "date": str(datetime.date.today())}
    content = {**about, "inputs": inputs, "cases": cases}
    (HERE / f"{name}.json").write_text(json.dumps(plain(content), indent=None) + "\n")
