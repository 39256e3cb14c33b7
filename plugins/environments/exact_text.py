"""The verifier ``exact``: equal as text."""

from __future__ import annotations

from .math_text import fold_width


def exact(answer: str, gold: str) -> bool | None:
    """Equal as text, but for case, white space, full-width forms and a full stop at the end.

    Nothing else is folded: 10² is not 102, ½ is not 1/2.
    """
    read = _normal(answer)
    return read == _normal(gold) if read else None


def _normal(text: str) -> str:
    return " ".join(fold_width(text).casefold().split()).removesuffix(".").rstrip()
