"""The verifier ``exact`` compares answers as text."""

from __future__ import annotations

from .math_text import fold_width


def exact(answer: str, gold: str) -> bool | None:
    """Return whether two texts are equal, whatever their case, white space, full-width forms and final full stop.

    Nothing else is ignored: 10² is not 102, and ½ is not 1/2. An empty answer gives ``None``.
    """
    text = _normal(answer)
    return text == _normal(gold) if text else None


def _normal(text: str) -> str:
    return " ".join(fold_width(text).casefold().split()).removesuffix(".").rstrip()
