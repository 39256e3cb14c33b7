"""Arithmetic on text that a model wrote is exact: fractions instead of floats, no ``eval``, bounded length."""

from __future__ import annotations

import re
from fractions import Fraction

import attrs

MAX_LENGTH = 120
"""Largest number of characters, which bounds the depth of the recursion and the size of the numbers."""
_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")


@attrs.frozen
class Expression:
    """An expression is what arithmetic text says."""

    numbers: tuple[int, ...]
    """Numbers in it, from left to right."""
    value: Fraction | None
    """Exact value; ``None`` if something is divided by zero."""


def parse(text: str) -> Expression:
    """Read non-negative integers, ``+ - * /`` between two operands, and parentheses; nothing else.

    Raises:
        ValueError: anything that is not such an expression, or more than ``MAX_LENGTH`` characters.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the expression has {len(text)} characters, at most {MAX_LENGTH} are read")
    tokens = _tokens(text.rstrip())
    value, rest = _sum(tokens)
    if rest:
        raise ValueError(f"nothing can follow the expression, but {rest[0]!r} does")
    return Expression(tuple(int(token) for token in tokens if token.isdigit()), value)


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"{text[position:]!r} is not arithmetic")
        tokens.append(match[1])
        position = match.end()
    return tokens


def _sum(tokens: list[str]) -> tuple[Fraction | None, list[str]]:
    """Read products that are added or subtracted; return the value and the tokens after it."""
    value, rest = _product(tokens)
    while rest and rest[0] in "+-":
        sign = 1 if rest[0] == "+" else -1
        term, rest = _product(rest[1:])
        value = None if value is None or term is None else value + sign * term
    return value, rest


def _product(tokens: list[str]) -> tuple[Fraction | None, list[str]]:
    """Read operands that are multiplied or divided; return the value and the tokens after it."""
    value, rest = _operand(tokens)
    while rest and rest[0] in "*/":
        sign = rest[0]
        factor, rest = _operand(rest[1:])
        if value is None or factor is None or (sign == "/" and factor == 0):
            value = None
        else:
            value = value * factor if sign == "*" else value / factor
    return value, rest


def _operand(tokens: list[str]) -> tuple[Fraction | None, list[str]]:
    """Read a number or an expression in parentheses; return the value and the tokens after it."""
    if tokens and tokens[0].isdigit():
        return Fraction(int(tokens[0])), tokens[1:]
    if tokens and tokens[0] == "(":
        value, rest = _sum(tokens[1:])
        if rest and rest[0] == ")":
            return value, rest[1:]
        raise ValueError("a parenthesis is not closed")
    raise ValueError(f"a number or a parenthesis is missing before {tokens[0]!r}" if tokens else "a number is missing")
