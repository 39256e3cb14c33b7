"""The contract of a kind is read here, as ``uncollapse show KIND`` prints it: methods, attributes and objects.

Everything comes from the classes of :mod:`..core.components` and from the sources, so that no page can be out of date;
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
    "dialect": ("uncollapse.plugins.sweeps.skip_or_resume:Prepared",),
    "collapse": ("uncollapse.plugins.training.step.pending:PendingUpdate",),
}
"""Classes outside of the core that the components of a kind are given."""


@attrs.frozen
class Method:
    """A method of a class, as it is printed."""

    name: str
    """Name of the method or property."""
    signature: str
    """Arguments and return type."""
    doc: str
    """Docstring."""


@attrs.frozen
class Class:
    """A class is a part of a contract: a base class, or an object with fields."""

    name: str
    """Name of the class."""
    doc: str
    """Docstring."""
    fields: tuple[describe.Parameter, ...]
    """Attributes of a base class, fields of an object."""
    methods: tuple[Method, ...]
    """Methods and properties, without those that begin with an underscore."""


@attrs.frozen
class Contract:
    """A contract is everything that an author of one kind of component must know."""

    kind: str
    """Name of the kind."""
    does: str
    """Task of such components, in words."""
    hook: str
    """Hook that registers them."""
    contract: Class | None
    """Base class; ``None`` for kinds whose names stand for files, mappings and commands."""
    objects: tuple[Class, ...]
    """Objects that its methods are given and give back."""
    laws: tuple[str, ...]
    """Laws that :func:`uncollapse.testing.check` tries, in words."""
    names: tuple[str, ...]
    """Names that are registered."""


def contract_of(name: str) -> Contract:
    """Read the contract of a kind. Raises UnknownNameError if there is none of that name."""
    names = tuple(registry().names(name))
    kind = KINDS[name]
    base = getattr(components, kind.contract) if kind.contract else None
    objects = [_class(cls) for cls in _reached(base)] if base else []
    objects += [_class(cls) for cls in _further(name)]
    return Contract(name, kind.does, kind.hook, _class(base) if base else None, tuple(objects), _laws(kind), names)


def _further(kind: str) -> Iterator[type]:
    """Yield the classes outside of the core; those that need torch are left out in a light install."""
    for target in FURTHER.get(kind, ()):
        module, _, name = target.partition(":")
        try:
            yield getattr(import_module(module), name)
        except ImportError as error:
            if not isinstance(missing_extra(error, target), MissingExtraError):
                raise


def _reached(start: type) -> list[type]:
    """List the classes of the core that a class names in its annotations, and those that they name, as they appear."""
    reached = [start]
    # the list grows while it is read: each class adds those that it names
    for cls in reached:
        for word in _words(cls):
            named = getattr(components, word, None) if word in components.__all__ else None
            if inspect.isclass(named) and named not in reached:
                reached.append(named)
    return reached[1:]


def _words(cls: type) -> Iterator[str]:
    """Yield the identifiers in the annotations of a class and of its methods."""
    annotations = [str(value) for value in inspect.get_annotations(cls).values()]
    for method in _functions(cls).values():
        annotations += [str(value) for value in inspect.get_annotations(method).values()]
    for annotation in annotations:
        yield from re.findall(r"[A-Za-z]\w*", annotation)


def _functions(cls: type) -> dict[str, Any]:
    """Return the functions of the methods and properties of a class, by name."""
    functions = {}
    for name, value in _members(cls).items():
        function = value.fget if isinstance(value, property) else value
        if inspect.isfunction(function) and (name == "__call__" or not name.startswith("_")):
            functions[name] = function
    return functions


def _members(cls: type) -> dict[str, Any]:
    """Return what a class defines, and for a component also what the base class of all components does."""
    defined = dict(vars(cls))
    if not issubclass(cls, components.Component):
        return defined
    # first in the order of the class, and with its values where both define a name
    return defined | vars(components.Component) | defined


def _class(cls: type) -> Class:
    """Describe a class."""
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
    """Remove the quotes in which the types of named tuples stand."""
    quoted = re.fullmatch(r"ForwardRef\('(.*)'\)", field.type)
    return attrs.evolve(field, type=quoted[1]) if quoted else field


def _attributes(cls: type) -> Iterator[describe.Parameter]:
    """Yield the attributes of a base class, those that all components have at the end."""
    docs = describe.field_docs(cls)
    of_all = inspect.get_annotations(components.Component) if issubclass(cls, components.Component) else {}
    for name, annotation in (inspect.get_annotations(cls) | of_all).items():
        required = not hasattr(cls, name)
        yield describe.Parameter(name, str(annotation), getattr(cls, name, None), required, docs.get(name, ""))


def _laws(kind: Kind) -> tuple[str, ...]:
    """Read the laws of a kind from the docstrings in the source, because the module itself imports torch."""
    if kind.name not in ROOMS:
        return ()
    tree = ast.parse((Path(__file__).parent / "laws" / f"{ROOMS[kind.name]}.py").read_text("utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for call in _calls_of_laws(tree, kind.name):
        docs = [ast.get_docstring(functions[ast.unparse(argument)]) or "" for argument in call.args]
        return tuple(doc.partition("\n")[0] for doc in docs)
    return ()


def _calls_of_laws(tree: ast.Module, kind: str) -> Iterator[ast.Call]:
    """Yield the call ``laws(...)`` that stands under a kind in the mapping ``LAWS`` of a module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and ast.unparse(node.targets[0]) == "LAWS":
            for key, call in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == kind and isinstance(call, ast.Call):
                    yield call
