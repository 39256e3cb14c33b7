"""Output for terminals that cannot show every character: a fallback for those that this program prints itself."""

from __future__ import annotations

import io
import sys
from typing import TextIO

PLAIN = {
    "±": "+-", "→": "->", "–": "-", "—": "-", "…": "...", "×": "x", "·": ".", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~",
    "δ": "d", "Δ": "D", "σ": "sigma", "π": "pi", "η": "eta", "τ": "tau", "ρ": "rho", "ε": "eps", "λ": "lambda",
    "γ": "gamma", "β": "beta", "α": "alpha", "θ": "theta", "μ": "mu", "∞": "inf", "∑": "sum", "²": "^2",
    "₁": "1", "‘": "'", "’": "'", "“": '"', "”": '"', "•": "*", "✓": "yes", "✗": "no", "━": "-", "─": "-", "│": "|",
}  # fmt: skip
"""Character -> what stands for it; any other one becomes an escape as in Python and JSON."""


class PlainOutput(io.TextIOWrapper):
    """A text stream that replaces what its terminal cannot show.

    It says that it is Latin-1, which ASCII is a part of: to libraries that write, ASCII means a stream set up wrongly.
    """

    def __init__(self, stream: TextIO) -> None:
        self._shown = stream.encoding
        super().__init__(stream.buffer, "latin-1", "backslashreplace", line_buffering=True, write_through=True)

    def write(self, text: str) -> int:
        super().write(plain(text, self._shown))
        return len(text)


def plain(text: str, encoding: str) -> str:
    """The text with :data:`PLAIN` in place of what ``encoding`` does not have."""
    try:
        text.encode(encoding)
    except UnicodeError:
        return "".join(_plain(character, encoding) for character in text)
    return text


def _plain(character: str, encoding: str) -> str:
    try:
        character.encode(encoding)
    except UnicodeError:
        return PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode()
    return character


def survive_plain_terminals() -> None:
    """Let standard output and error of this process take any text."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, PlainOutput) and _is_plain(stream.encoding):
            stream.flush()
            setattr(sys, name, PlainOutput(stream))


def _is_plain(encoding: str) -> bool:
    try:
        "".join(PLAIN).encode(encoding)
    except UnicodeError:
        return True
    return False
