"""The contract of a kind, as ``uncollapse show KIND`` prints it: methods, attributes, and the objects that they pass.

Everything is read off the classes of :mod:`..core.components` and off the sources, so that no page can be out of date;
neither torch nor a component is imported.
"""

from __future__ import annotations

import ast
import inspect
import re
from abc import ABC
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs

from ..core import components, describe
from ..core.errors import MissingExtraError
from ..core.kinds import KINDS, Kind
from ..core.registry import registry
from ..core.targets import missing_extra
from .check import ROOMS

FURTHER = {
    "launcher": ("uncollapse.plugins.launch.job:Job",),
    "variance": ("uncollapse.estimators.variance.terms:Terms", "uncollapse.estimators.variance.terms:Estimate"),
    "dialect": ("uncollapse.plugins.sweeps.prepare:Prepared",),
    "collapse": ("uncollapse.plugins.training.step.pending:PendingUpdate",),
}
"""Kind -> what its components are given that is no part of the core."""


@attrs.frozen
class Method:
    """One method of a class."""

    name: str
    signature: str
    doc: str


@attrs.frozen
class Class:
    """One class that a contract is made of: a base class, or an object with fields."""

    name: str
    doc: str
    fields: tuple[describe.Parameter, ...]
    """Attributes of a base class, fields of an object."""
    methods: tuple[Method, ...]


@attrs.frozen
class Contract:
    """Everything that an author of one kind of component must know."""

    kind: str
    does: str
    hook: str
    contract: Class | None
    """``None`` for kinds whose names stand for files, mappings and commands."""
    objects: tuple[Class, ...]
    """What its methods are given and give back."""
    laws: tuple[str, ...]
    """What :func:`uncollapse.testing.check` tries."""
    names: tuple[str, ...]


def contract_of(name: str) -> Contract:
    """The contract of a kind. Raises UnknownNameError if there is none of that name."""
    names = tuple(registry().names(name))
    kind = KINDS[name]
    main = getattr(components, kind.contract) if kind.contract else None
    objects = [_class(each) for each in _reached(main)] if main else []
    objects += [_class(each) for each in _further(name)]
    return Contract(name, kind.does, kind.hook, _class(main) if main else None, tuple(objects), _laws(kind), names)


def _further(kind: str) -> Iterator[type]:
    """Classes outside of the core; in a light install those that need torch are left out."""
    for target in FURTHER.get(kind, ()):
        module, _, name = target.partition(":")
        try:
            yield getattr(import_module(module), name)
        except ImportError as error:
            if not isinstance(missing_extra(error, target), MissingExtraError):
                raise


def _reached(start: type) -> list[type]:
    """The classes of the core that annotations of a class name, and those that theirs do; in order of appearance."""
    found: dict[type, None] = {start: None}
    for cls in iter(lambda: next((each for each in found if found[each] is None), None), None):
        found[cls] = True  # type: ignore[assignment]
        for word in _words(cls):
            reached = getattr(components, word, None) if word in components.__all__ else None
            if inspect.isclass(reached):
                found.setdefault(reached, None)
    return [cls for cls in found if cls is not start]


def _words(cls: type) -> Iterator[str]:
    annotations = [str(value) for value in inspect.get_annotations(cls).values()]
    for method in _functions(cls).values():
        annotations += [str(value) for value in inspect.get_annotations(method).values()]
    for annotation in annotations:
        yield from re.findall(r"[A-Za-z]\w*", annotation)


def _functions(cls: type) -> dict[str, Any]:
    found = {}
    for name, value in _members(cls).items():
        function = value.fget if isinstance(value, property) else value
        if inspect.isfunction(function) and (name == "__call__" or not name.startswith("_")):
            found[name] = value
    return {name: value.fget if isinstance(value, property) else value for name, value in found.items()}


def _members(cls: type) -> dict[str, Any]:
    """What a class defines, and for a component what those of every kind have."""
    own = dict(vars(cls))
    return own | vars(components.Component) | own if issubclass(cls, components.Component) else own


def _class(cls: type) -> Class:
    is_base = issubclass(cls, ABC)
    methods = []
    for name, function in _functions(cls).items():
        signature = re.sub(r"\bself, |\bself\b", "", str(inspect.signature(function)), count=1).replace("'", "")
        is_property = isinstance(inspect.getattr_static(cls, name), property)
        text = f" -> {function.__annotations__.get('return', '')}" if is_property else signature
        methods.append(Method(name, text, inspect.getdoc(function) or ""))
    fields = _attributes(cls) if is_base else map(_plainly_typed, describe.parameters(cls))
    return Class(cls.__name__, inspect.cleandoc(cls.__doc__ or ""), tuple(fields), tuple(methods))


def _plainly_typed(field: describe.Parameter) -> describe.Parameter:
    """The types of named tuples stand in quotes."""
    quoted = re.fullmatch(r"ForwardRef\('(.*)'\)", field.type)
    return attrs.evolve(field, type=quoted[1]) if quoted else field


def _attributes(cls: type) -> Iterator[describe.Parameter]:
    docs = describe.field_docs(cls)
    every = inspect.get_annotations(components.Component) if issubclass(cls, components.Component) else {}
    for name, annotation in (inspect.get_annotations(cls) | every).items():
        required = not hasattr(cls, name)
        yield describe.Parameter(name, str(annotation), getattr(cls, name, None), required, docs.get(name, ""))


def _laws(kind: Kind) -> tuple[str, ...]:
    """The first lines of the docstrings of its laws, read from the source: the module itself imports torch."""
    if kind.name not in ROOMS:
        return ()
    tree = ast.parse((Path(__file__).parent / "laws" / f"{ROOMS[kind.name]}.py").read_text("utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and ast.unparse(node.targets[0]) == "LAWS":
            for key, call in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == kind.name and isinstance(call, ast.Call):
                    docs = [ast.get_docstring(functions[ast.unparse(each)]) or "" for each in call.args]
                    return tuple(doc.partition("\n")[0] for doc in docs)
    return ()
