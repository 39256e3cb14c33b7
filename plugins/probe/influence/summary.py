"""Shares are summed over sequences that are alike, and correlated with features of the sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..report.readable import short
from .influence import Shares

PARTS = 4
"""Number of quantile groups of a quantity with many values."""
FEATURES = ("reward", "advantage", "tokens", "surprisal_mean", "surprisal_max")

Record = dict[str, Any]


def groups(records: Sequence[Record], shares: Shares) -> dict[str, list[Record]]:
    """Group the sequences by prompt, reward, tokens and rarity, with the sum of their shares and its standard error.

    Prompts are in the order of the size of their sum. A quantity with at most four values is grouped by value, any
    other by quartile.
    """
    prompts_S = torch.tensor([record["prompt"] for record in records])
    tasks = {record["prompt"]: record["task"] for record in records}
    by_prompt = []
    for prompt in prompts_S.unique().tolist():
        by_prompt.append({"prompt": prompt, "task": tasks[prompt], **_sum(prompts_S == prompt, shares)})
    by_prompt.sort(key=lambda group: -abs(group["share"]))
    return {
        "prompt": by_prompt,
        **{name: _by_size(_column(records, name), shares) for name in ("reward", "tokens", "surprisal_mean")},
    }


def correlations(records: Sequence[Record]) -> dict[str, dict[str, float | None]]:
    """Return Spearman's rank correlation of each feature with the share, and with the size of the share.

    It is ``None`` where one of the two does not vary.
    """
    share = _column(records, "share")
    return {
        name: {"share": spearman(_column(records, name), share), "size": spearman(_column(records, name), share.abs())}
        for name in FEATURES
    }


def spearman(a: Tensor, b: Tensor) -> float | None:
    """Return the correlation of the ranks; equal values share the mean of their ranks."""
    ranks = torch.stack([_ranks(a), _ranks(b)])
    if bool((ranks.amax(1) == ranks.amin(1)).any()):
        return None
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(x: Tensor) -> Tensor:
    _, index, counts = x.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0).double() - (counts - 1) / 2)[index]


def _by_size(x: Tensor, shares: Shares) -> list[Record]:
    values = x.unique()
    if len(values) <= PARTS:
        return [{"label": short(float(value)), **_sum(x == value, shares)} for value in values]
    edges = torch.quantile(x, torch.linspace(0, 1, PARTS + 1, dtype=x.dtype)).unique()
    index = torch.bucketize(x, edges[1:-1])
    result = []
    for part in range(len(edges) - 1):
        chosen = index == part
        if bool(chosen.any()):
            low, high = float(x[chosen].min()), float(x[chosen].max())
            result.append({"label": f"{short(low)} to {short(high)}", **_sum(chosen, shares)})
    return result


def _sum(chosen: Tensor, shares: Shares) -> Record:
    share, se = shares.of(chosen)
    return {
        "sequences": int(chosen.sum()),
        "share": share,
        "se": se,
        "share_of_total": shares.share_of_total(share),
    }


def _column(records: Sequence[Record], name: str) -> Tensor:
    return torch.tensor([record[name] for record in records], dtype=torch.float64)
