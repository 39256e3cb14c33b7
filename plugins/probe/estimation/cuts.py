"""The rows of a batch are cut into the passes of each kind, of which every rank makes a share."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from ...training.processes.ranks import Ranks
from ...training.step.batch import parts
from ...training.step.budget import SCORE_FACTOR, by_tokens


@attrs.frozen
class Cuts:
    """Cuts are lists of the rows of each pass that this rank makes."""

    gradient: list[list[int]]
    """Passes that keep what a gradient needs."""
    forward: list[list[int]]
    """Passes without gradients, which take less memory."""
    dual: list[list[int]]
    """Passes in forward mode."""

    @classmethod
    def by_rows(cls, lengths: Sequence[int], size: int, forward_size: int, ranks: Ranks) -> Cuts:
        """Cut rows of these ``lengths`` into passes of at most ``size`` rows, or ``forward_size`` without gradients."""
        ordered = by_length(lengths)
        gradient, forward = (parts(ordered, rows)[ranks.rank :: ranks.size] for rows in (size, forward_size))
        return cls(gradient, forward, forward)

    @classmethod
    def by_budget(cls, lengths: Sequence[int], budget: int, ranks: Ranks) -> Cuts:
        """Cut rows into packed passes of at most ``budget`` tokens, or :data:`SCORE_FACTOR` times it without gradients.

        Rows are padded in forward mode, since an attention for packed rows has none, and padding counts.
        """
        numbered = dict(enumerate(lengths))
        gradient, forward = (
            by_tokens(numbered, ranks.size, most)[ranks.rank] for most in (budget, SCORE_FACTOR * budget)
        )
        rows = min(SCORE_FACTOR * budget // max(lengths, default=1), -(-len(lengths) // ranks.size))
        dual = parts(by_length(lengths), max(1, rows))[ranks.rank :: ranks.size]
        return cls([rows for rows in gradient if rows], [rows for rows in forward if rows], dual)


def by_length(lengths: Sequence[int]) -> list[int]:
    """Return the rows from the shortest to the longest: little of a pass over neighbours is padding."""
    return sorted(range(len(lengths)), key=lengths.__getitem__)
