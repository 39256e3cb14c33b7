"""Rows are cut into few micro-batches of at most a number of tokens, spread evenly over the ranks."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

SCORE_FACTOR = 2
"""The factor by which a pass without gradients, which keeps no activations, may exceed the token budget. It is that of
``score_batch`` over ``micro_batch`` by default."""


def by_tokens(lengths: Mapping[int, int], ranks: int, budget: int) -> list[list[list[int]]]:
    """Return the rows of each micro-batch of each rank. Every rank has the same number of them, and some may be empty.

    Rows are dealt longest first, each to the micro-batch with the fewest tokens (Graham's rule). The number of
    micro-batches is the smallest with which all of them stay within the budget. So no two of them, and no two ranks,
    differ by more tokens than the longest row has. A micro-batch exceeds the budget only where a single row does.

    Args:
        lengths: row -> its number of tokens.
        ranks: the number of ranks.
        budget: the largest number of tokens in a micro-batch.
    """
    longest_first = sorted(lengths, key=lambda row: (-lengths[row], row))
    fitting = sum(min(length, budget) for length in lengths.values())
    count = ranks * -(-fitting // (budget * ranks))
    while True:
        bins: list[tuple[int, int, list[int]]] = [(0, index, []) for index in range(count)]
        for row in longest_first:
            tokens, index, dealt = bins[0]
            dealt.append(row)
            heapq.heapreplace(bins, (tokens + lengths[row], index, dealt))
        if all(tokens <= budget or len(dealt) == 1 for tokens, _, dealt in bins):
            break
        count += ranks
    # Ranks may wait for each other after every micro-batch, so those of like size share a turn.
    ordered = [dealt for _, _, dealt in sorted(bins, key=lambda each: (-each[0], each[1]))]
    return [ordered[rank::ranks] for rank in range(ranks)]
