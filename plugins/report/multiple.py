"""Many comparisons at once are corrected, so that the strongest of them is not one that chance makes."""

from __future__ import annotations

import math
from collections.abc import Sequence


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values adjusted by Holm's step-down procedure, in the order given.

    What is at most a level alpha after the adjustment is significant, with a chance of at most alpha that any of the
    true null hypotheses is among them, however the tests depend on each other (Holm, Scandinavian Journal of Statistics
    6, 1979). The smallest of n p-values is multiplied by n, the next by n - 1, and so on; each is at least the one
    before it and at most 1.

    Args:
        p_values: a p-value per test; ``None`` where nothing was tested, which stays ``None`` and is not among the n.

    Raises:
        ValueError: a p-value is not between 0 and 1.
    """
    tested = [(p, at) for at, p in enumerate(p_values) if p is not None]
    for p, at in tested:
        if math.isnan(p) or not 0 <= p <= 1:
            raise ValueError(f"p-value {at} is {p}: it has to be between 0 and 1")
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, at) in enumerate(sorted(tested)):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[at] = largest
    return adjusted
