"""Any terminal can show what is printed, and nothing in a message can steer the terminal."""

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
ERRORS = "uncollapse.spelled"
"""The error handler of :mod:`codecs` that writes what stands for a character."""
ASCII = "uncollapse-ascii"
"""ASCII by a name of its own: a stream that says it is ASCII, click takes for set up wrongly, and sends it UTF-8."""
LONGEST = 4000
"""Characters of one line of a message."""


def printable_streams() -> None:
    """Make stdout and stderr write whatever they are given, in any locale: what they cannot encode is spelled out."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=ASCII if ascii_only else stream.encoding, errors=ERRORS)


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


def _ascii(name: str) -> codecs.CodecInfo | None:
    if name != ASCII.replace("-", "_"):
        return None
    real = codecs.lookup("ascii")
    return codecs.CodecInfo(
        real.encode,
        real.decode,
        real.streamreader,
        real.streamwriter,
        real.incrementalencoder,
        real.incrementaldecoder,
        name=ASCII,
    )


codecs.register_error(ERRORS, _spelled)
codecs.register(_ascii)
