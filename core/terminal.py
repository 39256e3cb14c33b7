"""What is printed: any terminal can show it, and nothing in a message can steer the terminal."""

from __future__ import annotations

import codecs
import sys

SPELLED = {
    "±": "+-", "→": "->", "–": "-", "—": "-", "…": "...", "×": "x", "·": ".", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~",
    "δ": "d", "Δ": "D", "σ": "sigma", "π": "pi", "η": "eta", "τ": "tau", "ρ": "rho", "ε": "eps", "λ": "lambda",
    "γ": "gamma", "β": "beta", "α": "alpha", "θ": "theta", "μ": "mu", "∞": "inf", "∑": "sum", "²": "^2",
    "₁": "1", "‘": "'", "’": "'", "“": '"', "”": '"', "•": "*", "✓": "yes", "✗": "no", "━": "-", "─": "-", "│": "|",
}  # fmt: skip
"""What stands for a character of ours where the terminal's encoding lacks it."""
LONGEST = 4000
"""Characters of one line of a message."""


def printable_streams() -> None:
    """Make stdout and stderr write whatever they are given, in any locale: what they cannot encode is spelled out."""
    codecs.register_error("uncollapse.spelled", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="uncollapse.spelled")


def escaped(text: str) -> str:
    """The text with control characters as escapes (line breaks stay), and no line longer than :data:`LONGEST`."""
    shown = "".join(char if char.isprintable() or char == "\n" else _escape(char) for char in text)
    return "\n".join(map(_cut, shown.split("\n")))


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _cut(line: str) -> str:
    if len(line) <= LONGEST:
        return line
    return f"{line[: LONGEST // 2]} ... ({len(line) - LONGEST} characters) ... {line[-LONGEST // 2 :]}"


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    failed = error.object[error.start : error.end]
    return "".join(SPELLED.get(char) or _escape(char) for char in failed), error.end
