"""Shares of sequences, summed over like sequences, and set against what the sequences are like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..report.readable import short
from .influence import Shares

PARTS = 4
"""Quantile groups of a quantity with many values."""
FEATURES = ("reward", "advantage", "tokens", "surprisal_mean", "surprisal_max")

Record = dict[str, Any]


def groups(records: Sequence[Record], found: Shares) -> dict[str, list[Record]]:
    """By prompt, reward, tokens and rarity: sequences, the sum of their shares, and its standard error.

    Prompts by the size of their sum. A quantity with at most four values is grouped by value, else by quartile.
    """
    prompts = torch.tensor([record["prompt"] for record in records])
    by_prompt = [
        {"prompt": int(prompt), "task": next(r["task"] for r in records if r["prompt"] == prompt)}
        | _sum(prompts == prompt, found)
        for prompt in prompts.unique()
    ]
    by_prompt.sort(key=lambda group: -abs(group["share"]))
    return {
        "prompt": by_prompt,
        **{name: _by_size(_column(records, name), found) for name in ("reward", "tokens", "surprisal_mean")},
    }


def correlations(records: Sequence[Record]) -> dict[str, dict[str, float | None]]:
    """Spearman's rank correlation of each feature with the share, and with the size of the share; ``None`` where one of
    the two does not vary.
    """
    share = _column(records, "share")
    return {
        name: {"share": spearman(_column(records, name), share), "size": spearman(_column(records, name), share.abs())}
        for name in FEATURES
    }


def spearman(a: Tensor, b: Tensor) -> float | None:
    """The correlation of the ranks; equal values share the mean of their ranks."""
    ranks = torch.stack([_ranks(a), _ranks(b)])
    if bool((ranks.amax(1) == ranks.amin(1)).any()):
        return None
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(x: Tensor) -> Tensor:
    _, index, counts = x.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0).double() - (counts - 1) / 2)[index]


def _by_size(x: Tensor, found: Shares) -> list[Record]:
    values = x.unique()
    if len(values) <= PARTS:
        return [{"label": short(float(value)), **_sum(x == value, found)} for value in values]
    edges = torch.quantile(x, torch.linspace(0, 1, PARTS + 1, dtype=x.dtype)).unique()
    index = torch.bucketize(x, edges[1:-1])
    result = []
    for part in range(len(edges) - 1):
        chosen = index == part
        if bool(chosen.any()):
            low, high = float(x[chosen].min()), float(x[chosen].max())
            result.append({"label": f"{short(low)} to {short(high)}", **_sum(chosen, found)})
    return result


def _sum(chosen: Tensor, found: Shares) -> Record:
    share, se = found.of(chosen)
    return {
        "sequences": int(chosen.sum()),
        "share": share,
        "se": se,
        "share_of_total": found.share_of_total(share),
    }


def _column(records: Sequence[Record], name: str) -> Tensor:
    return torch.tensor([record[name] for record in records], dtype=torch.float64)
