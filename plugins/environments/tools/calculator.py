"""The tool set ``calculator`` has one tool, which calculates exactly and runs nothing."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction

import attrs

from ....core.components import Toolset

MAX_LENGTH = 200
"""Largest number of characters of an expression."""
_LARGEST_BITS = 4096
"""Largest size of a number, in bits of its numerator or denominator."""
_EXPONENT_DIGITS = 3
_DIGITS = 12
"""Significant digits of a result that is no short decimal."""
_OPERATORS: dict[type[ast.AST], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}


def calculator(expression: str) -> str:
    """Calculate the value of an arithmetic expression.

    Args:
        expression: Numbers with + - * / // % ** and parentheses, such as (12 + 7.5) * 3.
    """
    if len(expression) > MAX_LENGTH:
        raise ValueError(f"the expression has {len(expression)} characters, at most {MAX_LENGTH} are read")
    text = expression.strip().replace("^", "**").replace("×", "*").replace("÷", "/").replace("−", "-")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{expression!r} is not arithmetic") from None
    return written(_value(tree, text))


@attrs.frozen
class Calculator(Toolset):
    """One tool, ``calculator``: exact arithmetic with whole numbers and decimals.

    It takes ``+ - * / // % **`` and parentheses. A result that has no short decimal is rounded to 12 significant
    digits. Anything else is told to the model as an error.
    """

    tools = (calculator,)


def _value(node: ast.expr, text: str) -> Fraction:
    """Return the exact value of an expression. Raises ValueError if it has none, or none that is small enough."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _number(ast.get_source_segment(text, node) or "")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, text)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, text), _value(node.right, text)
        if isinstance(node.op, ast.Pow):
            return _power(left, right)
        if type(node.op) in _OPERATORS:
            if right == 0 and not isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
                raise ValueError("nothing can be divided by zero")
            return _small(_OPERATORS[type(node.op)](left, right))
    if isinstance(node, ast.Tuple):
        raise ValueError("numbers are written without commas")
    raise ValueError(f"{ast.get_source_segment(text, node) or text!r} is not arithmetic")


def _number(digits: str) -> Fraction:
    exponent = digits.lower().partition("e")[2].lstrip("+-")
    if len(exponent) > _EXPONENT_DIGITS:
        raise ValueError("the result is too large")
    try:
        # the digits, not the float that is nearest to them
        return _small(Fraction(digits))
    except ValueError:
        raise ValueError(f"{digits!r} is no decimal number") from None


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ValueError("a power must be a whole number")
    if base == 0 and exponent < 0:
        raise ValueError("nothing can be divided by zero")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) > _LARGEST_BITS or (bits > 1 and bits * abs(exponent) > _LARGEST_BITS):
        raise ValueError("the result is too large")
    return Fraction(base**exponent.numerator)


def _small(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _LARGEST_BITS:
        raise ValueError("the result is too large")
    return value


def written(value: Fraction) -> str:
    """Write a number as a decimal: exactly where that has at most 12 digits, otherwise rounded to them."""
    if value.denominator == 1:
        return str(value.numerator)
    for places in range(1, _DIGITS + 1):
        if (scaled := value * 10**places).denominator == 1:
            sign, digits = "-" if scaled < 0 else "", str(abs(scaled.numerator)).rjust(places + 1, "0")
            return f"{sign}{digits[:-places]}.{digits[-places:]}"
    rounding = Context(prec=_DIGITS)
    return str(rounding.divide(Decimal(value.numerator), Decimal(value.denominator)))
