"""Micro-batches cut by tokens: few of them, each within a budget, alike over all ranks."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

SCORE_FACTOR = 2
"""A pass without gradients keeps no activations, so it takes this many times the budget: as ``score_batch`` is to
``micro_batch`` by default."""


def by_tokens(lengths: Mapping[int, int], ranks: int, budget: int) -> list[list[list[int]]]:
    """For each rank the rows of each micro-batch, the same number for every rank; an empty one has nothing to do.

    Rows are dealt longest first, each to the micro-batch with the fewest tokens (Graham's rule), into the fewest
    micro-batches that all stay within the budget that way. So no two of them, and no two ranks, differ by more tokens
    than the longest row has; a micro-batch is only beyond the budget where a single row is.

    Args:
        lengths: tokens of each row.
        budget: tokens of a micro-batch.
    """
    longest_first = sorted(lengths, key=lambda row: (-lengths[row], row))
    fitting = sum(min(length, budget) for length in lengths.values())
    count = ranks * -(-fitting // (budget * ranks))
    while True:
        bins: list[tuple[int, int, list[int]]] = [(0, index, []) for index in range(count)]
        for row in longest_first:
            tokens, index, held = bins[0]
            held.append(row)
            heapq.heapreplace(bins, (tokens + lengths[row], index, held))
        if all(tokens <= budget or len(held) == 1 for tokens, _, held in bins):
            break
        count += ranks
    # Ranks may wait for each other after every micro-batch, so those of like size share a turn.
    ordered = [held for _, _, held in sorted(bins, key=lambda each: (-each[0], each[1]))]
    return [ordered[rank::ranks] for rank in range(ranks)]
