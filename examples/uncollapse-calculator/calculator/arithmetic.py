"""The tool takes whole numbers, ``+ - *`` and parentheses; what a policy writes is read, never executed."""

from __future__ import annotations

import ast
import operator

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
LONGEST = 200
"""Largest number of characters of an expression, so that no number becomes too large."""


def value_of(text: str) -> int:
    """Return the value of an expression. Raises ValueError, with words for the policy, for anything else."""
    if len(text) > LONGEST:
        raise ValueError("that is too long")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError("that is no expression") from None
    return _value(tree.body)


def _value(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
            return OPERATIONS[type(op)](_value(left), _value(right))
    raise ValueError("only whole numbers, +, -, * and parentheses")
