"""The verifiers ``exact`` and ``contains`` compare answers as text."""

from __future__ import annotations

import re

from .math_text import fold_width


def exact(answer: str, gold: str) -> bool | None:
    """Return whether two texts are equal, whatever their case, white space, full-width forms and final full stop.

    Nothing else is ignored: 10² is not 102, and ½ is not 1/2. An empty answer gives ``None``.
    """
    text = normal(answer)
    return text == normal(gold) if text else None


def contains(answer: str, gold: str) -> bool | None:
    """Return whether a text holds another one as whole words; nothing holds an empty one. An empty answer gives None.

    As in ``exact``, case, white space and full-width forms make no difference. A number is whole as well: neither 142,
    nor 42.5, nor -42 holds 42.
    """
    text, sought = normal(answer), normal(gold)
    if not text:
        return None
    return bool(sought) and re.search(_before(sought[:1]) + re.escape(sought) + _after(sought[-1:]), text) is not None


def _before(first: str) -> str:
    """Return what may not stand before a text that begins so: more of its word, or of its number, such as a sign."""
    if first.isdigit():
        return r"(?<!\w)(?<!\d[.,])(?<!\s-)(?<!^-)"
    return r"(?<!\w)" if first.isalnum() else ""


def _after(last: str) -> str:
    """Return what may not follow a text that ends so: more of its word, or of its number."""
    if last.isdigit():
        return r"(?!\w)(?![.,]\d)"
    return r"(?!\w)" if last.isalnum() else ""


def normal(text: str) -> str:
    """Return a text without what makes no difference."""
    return " ".join(fold_width(text).casefold().split()).removesuffix(".").rstrip()
