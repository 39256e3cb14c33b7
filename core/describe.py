"""What a component says of itself: its parameters, their documentation, what it needs.

Parameters are read off the signature; the documentation of one is the bare string under its field in the source.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from .kinds import KINDS

if TYPE_CHECKING:
    import click


@attrs.frozen
class Parameter:
    """A parameter of a component is described."""

    name: str
    type: str
    """The type as written in the source, or the kind of component that it takes; empty where nothing is written."""
    default: Any
    """The value that it has unless it is given; ``None`` where the parameter is required."""
    required: bool
    doc: str
    kind: str = ""
    """The kind of the component that it takes; empty where it takes plain data."""


@attrs.frozen
class Description:
    """Everything about one registered name is told."""

    kind: str
    name: str
    aliases: tuple[str, ...]
    summary: str
    target: str
    """``module:attribute``."""
    plugin: str
    distribution: str
    version: str
    module: str
    source: str
    """The file that the target is defined in; empty where there is none."""
    source_sha256: str
    doc: str
    """The docstring; of an experiment or a sweep, its file."""
    parameters: tuple[Parameter, ...]
    needs: tuple[str, ...]
    facts: dict[str, Any]
    """What its kind asks each class to state, e.g. ``value_bias`` and ``gradient_bias`` of a KL variant."""


def component(target: Callable[..., Any]) -> tuple[Path | None, str, tuple[Parameter, ...]]:
    """Give source file, docstring and parameters of a component class."""
    return source_file(target), inspect.getdoc(target) or "", parameters(target)


def command(target: click.Command) -> tuple[Path | None, str, tuple[Parameter, ...]]:
    """Give source file, help and options of a click command."""
    options = tuple(
        Parameter(
            name="/".join(option.opts),
            type=option.type.name,
            default=None if option.required else option.to_info_dict()["default"],
            required=option.required,
            doc=getattr(option, "help", None) or "",
        )
        for option in target.params
    )
    return (
        source_file(target.callback and inspect.unwrap(target.callback)),
        inspect.cleandoc(target.help or ""),
        options,
    )


def parameters(target: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters of a component class, or of a function that makes components, in the order of its signature."""
    cls: type | None = target if inspect.isclass(target) else None
    fields = {field.alias: field for field in attrs.fields(cls)} if cls and attrs.has(cls) else {}
    docs = field_docs(cls) if cls else {}
    result = []
    for parameter in inspect.signature(target).parameters.values():
        field = fields.get(parameter.name)
        default, annotation = parameter.default, parameter.annotation
        if field is not None:
            default, annotation = field.default, field.type
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = "computed from the others" if default.takes_self else default.factory()
        required = default is parameter.empty or default is attrs.NOTHING
        doc = docs.get(field.name if field else parameter.name, "")
        described = Parameter(parameter.name, _type_name(annotation), None if required else default, required, doc)
        result.append(_of_components(described, field) if field is not None and "kind" in field.metadata else described)
    return tuple(result)


def _of_components(parameter: Parameter, field: attrs.Attribute[Any]) -> Parameter:
    """A parameter that takes a component, or several; ``None`` is no default unless its type says so."""
    kind, optional = field.metadata["kind"], allows_none(field.type)
    said = f"components of the kind {kind}" if field.metadata.get("many") else f"a component of the kind {kind}"
    required = field.default is None and not optional
    return attrs.evolve(parameter, type=f"{said}, or None" if optional else said, required=required, kind=kind)


def allows_none(annotation: object) -> bool:
    """Whether a type, which may be written as text, has ``None`` among its values."""
    return any(word in str(annotation) for word in ("None", "Optional["))


def needs(target: object) -> tuple[str, ...]:
    """What a component class declares to need, sorted; empty where that depends on the parameters."""
    declared = getattr(target, "needs", ())
    return tuple(sorted(declared)) if isinstance(declared, (frozenset, set)) else ()


def facts(kind: str, target: object) -> dict[str, Any]:
    """The class attributes that the base class of the kind lists, ``needs`` apart, where the target has them."""
    from . import components

    if not KINDS[kind].contract:
        return {}
    annotations = inspect.get_annotations(getattr(components, KINDS[kind].contract))
    names = [name for name, annotation in annotations.items() if "ClassVar" in annotation and name != "needs"]
    return {name: getattr(target, name) for name in names if hasattr(target, name)}


def source_file(target: object) -> Path | None:
    """The file that defines a class or function; ``None`` where there is none."""
    if not callable(target):
        return None
    try:
        return Path(inspect.getfile(target))
    except (TypeError, OSError):
        return None


def _type_name(annotation: object) -> str:
    if annotation in (None, inspect.Parameter.empty):
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """Map each field of a class and its bases to the bare string under it in the source."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            source = inspect.getsource(base)
        except (TypeError, OSError):
            continue
        body = ast.parse(textwrap.dedent(source)).body[0].body  # type: ignore[attr-defined]
        for field, text in pairwise(body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                    docs[name] = inspect.cleandoc(doc)
    return docs
