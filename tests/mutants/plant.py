"""Mutants of a module: its source with one small change, made by the operators of cosmic-ray and one of our own."""

import ast
import difflib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs
import cosmic_ray.ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator
from parso.python.tree import Name

SWAPS = {
    "BinaryOperator": "Add_Sub Sub_Add Mul_Div Mul_Add Div_Mul Pow_Mul FloorDiv_Mul Mod_Mul BitAnd_BitOr BitOr_BitAnd",
    "ComparisonOperator": "Eq_NotEq NotEq_Eq Lt_LtE Lt_Gt LtE_Lt LtE_GtE Gt_GtE Gt_Lt GtE_Gt GtE_LtE Is_IsNot IsNot_Is",
    "UnaryOperator": "Delete_USub Delete_Invert Delete_Not",
}
OTHERS = "AddNot ReplaceTrueWithFalse ReplaceFalseWithTrue ReplaceAndWithOr ReplaceOrWithAnd NumberReplacer"
OPERATORS = [f"core/Replace{kind}_{swap}" for kind, swaps in SWAPS.items() for swap in swaps.split()]
OPERATORS += [f"core/{name}" for name in OTHERS.split()]

METHODS = {"mean": "sum", "sum": "mean", "max": "min", "min": "max", "amax": "amin", "amin": "amax"}
METHODS |= {"maximum": "minimum", "minimum": "maximum", "cumsum": "cumprod", "std": "var", "exp": "log", "log": "exp"}


class ReplaceMethod(Operator):
    """Takes a mean for a sum, a maximum for a minimum and the like."""

    def mutation_positions(self, node):
        previous = node.get_previous_leaf() if isinstance(node, Name) else None
        if previous is not None and previous.value == "." and node.value in METHODS:
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        return Name(METHODS[node.value], node.start_pos, node.prefix)

    @classmethod
    def examples(cls):
        return (Example("x = y.mean()", "x = y.sum()"),)


@attrs.frozen
class Mutant:
    """One change of one module."""

    path: str
    """Relative to the repository."""
    operator: str
    source: str = attrs.field(repr=False)
    """The whole changed module."""
    removed: str
    """The line as it was."""
    added: str
    """The line as it is now."""
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}\n    - {self.removed}\n    + {self.added}"


def mutants(root: Path, path: str) -> list[Mutant]:
    """Every mutant of a module that changes what it does: not one of an annotation, and none twice."""
    source = (root / path).read_text("utf-8")
    original, seen = _behaviour(source), set()
    found = []
    for operator, changed in _changed(source):
        behaviour = _behaviour(changed)
        line, removed, added = _difference(source, changed)
        if behaviour in (None, original) or behaviour in seen or added == "/,":
            continue
        seen.add(behaviour)
        found.append(Mutant(path, operator, changed, removed, added, line))
    return found


def _changed(source: str) -> Iterator[tuple[str, str]]:
    tree = cosmic_ray.ast.get_ast(source)
    nodes = list(cosmic_ray.ast.ast_nodes(tree))
    for name, operator in _operators():
        for occurrence in range(sum(len(list(operator.mutation_positions(node))) for node in nodes)):
            changed = mutate_code(source, operator, occurrence)
            if changed is not None:
                yield name, changed


@cache
def _operators() -> list[tuple[str, Operator]]:
    return [(name, get_operator(name)()) for name in OPERATORS] + [("ReplaceMethod", ReplaceMethod())]


def _behaviour(source: str) -> str | None:
    """The module as Python reads it, without what does not compute (annotations, assertions, decorators of classes).

    ``None`` if it cannot be read.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            node.test = ast.Constant(True)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip":
            node.keywords = []  # that two lists are as long as each other is an assertion too
        if isinstance(node, ast.ClassDef):
            node.decorator_list = []  # whether two objects that hold tensors can be compared
        if isinstance(node, ast.arguments):
            # the star of a signature is no product
            node.args, node.posonlyargs, node.kwonlyargs = [*node.posonlyargs, *node.args, *node.kwonlyargs], [], []
            node.defaults, node.kw_defaults = [*node.defaults, *filter(None, node.kw_defaults)], []
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def _difference(source: str, changed: str) -> tuple[int, str, str]:
    """Number, old and new text of the first line that differs."""
    removed = added = ""
    number = 0
    for line in difflib.ndiff(source.splitlines(), changed.splitlines()):
        if line.startswith("+ ") and removed:
            added = line[2:].strip()
            break
        if line.startswith("- ") and not removed:
            removed = line[2:].strip()
            number += 1
        elif line.startswith("  ") and not removed:
            number += 1
    return number, removed, added
