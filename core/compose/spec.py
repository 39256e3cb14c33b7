"""The one-word spelling of a component: ``top_p``, ``top_p(0.9)``, ``top_p(0.9, type=smallest)``.

Values inside the parentheses are YAML 1.2 (``true``, ``null``, ``1e-6``, ``[a, b]``, ``'quoted, text'``); a value may
be the spelling of another component. Nothing is ever evaluated.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..errors import RequestError
from ..yaml import SyntaxProblem, loads

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.+/-]*")
_SPELLING = re.compile(rf"{_NAME.pattern}\(.*\)", re.DOTALL)
_KEYWORD = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)", re.DOTALL)
BEFORE_VALUE = {"", *"(=[{,:'\""}
"""After these (or at the start of an item) a quote opens quoted text; inside a word it is an apostrophe."""
MOST = 256
"""Values of one component spelled in one word."""
_CLOSES = {"(": ")", "[": "]", "{": "}"}


class SpecError(RequestError):
    """A spelling of a component, or a list of them, cannot be read."""


@attrs.frozen
class Spec:
    """A component as it was asked for: the positional arguments stand for its first parameters."""

    name: str
    args: tuple[Any, ...] = ()
    params: dict[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        words = [format_value(value) for value in self.args]
        words += [f"{key}={format_value(value)}" for key, value in self.params.items()]
        return f"{self.name}({', '.join(words)})" if words else self.name


def read_spec(value: object) -> Spec:
    """The component that ``value`` spells: text, or a mapping with ``name`` and the parameters. Raises SpecError."""
    if isinstance(value, Mapping):
        if not isinstance(value.get("name"), str):
            raise SpecError("a component given as a mapping needs its name", fix="write {name: NAME, PARAMETER: VALUE}")
        return Spec(value["name"].strip(), params={key: item for key, item in value.items() if key != "name"})
    if not isinstance(value, str):
        raise SpecError("must name a component", fix="write NAME, NAME(VALUE, KEY=VALUE) or {name: NAME, KEY: VALUE}")
    return parse_spec(value)


def parse_spec(text: str) -> Spec:
    """Read ``name`` or ``name(value, key=value)``. Raises SpecError."""
    text = text.strip()
    name, parenthesis, inside = text.partition("(")
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise SpecError(f"{name!r} cannot be the name of a component", text, "write NAME or NAME(VALUE, KEY=VALUE)")
    if not parenthesis:
        return Spec(name)
    if not inside.endswith(")"):
        raise SpecError("the parentheses do not close at the end", text, "write NAME(VALUE, KEY=VALUE)")
    args: list[Any] = []
    params: dict[str, Any] = {}
    parts = split_list(inside[:-1])
    if len(parts) > MOST:
        raise SpecError(f"{name} is given {len(parts)} values, and {MOST} is the most", text)
    for part in parts:
        keyword = _KEYWORD.fullmatch(part)
        if not keyword and params:
            raise SpecError(f"the positional value {part} follows a named one", text, "put positional values first")
        if keyword and keyword[1] in params:
            raise SpecError(f"{keyword[1]} is given twice", text)
        if keyword:
            params[keyword[1]] = parse_value(keyword[2])
        else:
            args.append(parse_value(part))
    return Spec(name, tuple(args), params)


def parse_value(text: str) -> Any:
    """Read one YAML 1.2 value, or the text of a component's spelling, whatever it holds. Raises SpecError."""
    if _SPELLING.fullmatch(text.strip()):
        return text.strip()
    try:
        return loads(text)
    except SyntaxProblem as error:
        raise SpecError(f"{text.strip()!r} is not a YAML value: {error.reason}", fix="put text in quotes") from error


def split_list(text: str) -> list[str]:
    """The items of a comma-separated list; commas inside parentheses, brackets or quotes do not separate.

    Raises:
        SpecError: an item is empty, or a bracket or quote does not close.
    """
    items: list[str] = []
    closing: list[str] = []  # the brackets that are still to come
    quote = ""  # the one that is open
    last = ""  # the character before, spaces apart
    start = position = 0
    while position < len(text):
        char = text[position]
        if quote:
            if char == "\\" and quote == '"':
                position += 1
            elif char == quote:
                quote = ""
        elif char in "'\"" and last in BEFORE_VALUE:
            quote = char
        elif char in _CLOSES:
            closing.append(_CLOSES[char])
        elif char in ")]}":
            if not closing or closing.pop() != char:
                raise SpecError(f"a {char!r} closes nothing", text)
        elif char == "," and not closing:
            items.append(text[start:position])
            start = position + 1
        last = "" if start > position else last if char.isspace() else char
        position += 1
    if quote or closing:
        raise SpecError(f"a {quote or closing[-1]!r} is missing", text)
    items.append(text[start:])
    items = [item.strip() for item in items]
    if items == [""]:
        return []
    if "" in items:
        raise SpecError("an item of the list is empty", text, "drop the superfluous comma")
    return items


def format_value(value: object) -> str:
    """The spelling of a value that :func:`parse_value` reads back, and that a list does not cut."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}[repr(value)]
    if isinstance(value, str):
        return value if _stands_bare(value) else _quote(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{format_value(key)}: {format_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(format_value(item) for item in value) + "]"
    # Python converts no whole number of thousands of digits.
    return hex(value) if isinstance(value, int) and value.bit_length() > 1024 else str(value)


@functools.lru_cache(maxsize=4096)
def _stands_bare(text: str) -> bool:
    """Plain words, paths and components without brackets or quotes, where YAML reads them as this very text."""
    if not re.fullmatch(r"[A-Za-z0-9_./+-]+(\([A-Za-z0-9_./+=, -]*\))?", text):
        return False
    try:
        return parse_value(text) == text and loads(f"[{text}]") == [text] and split_list(text) == [text]
    except (SpecError, SyntaxProblem):
        return False


def _quote(text: str) -> str:
    def escape(char: str) -> str:
        if char in '"\\':
            return "\\" + char
        return char if char.isprintable() and char != "\ufeff" else f"\\U{ord(char):08x}"

    return '"' + "".join(map(escape, text)) + '"'
