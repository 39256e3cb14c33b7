"""Plain data is read strictly, as instances of attrs classes by their type hints.

Nothing is guessed: ``"false"`` is no bool, 3.9 no int, 5 no text and an unknown key an error. The one widening is that
1 is a fine float. cattrs reads classes, lists and mappings and collects what is wrong with all of their values; the
hooks here say what each of them takes, and tell every problem with its key, what stands there and what should.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import attrs
import cattrs
from cattrs.cols import list_structure_factory
from cattrs.errors import BaseValidationError
from cattrs.gen import make_dict_structure_fn_from_attrs

from ..errors import MissingExtraError, UncollapseError
from .component import component_mapping, unknown_parameter
from .containers import Hook, mapping, origin, require_text_keys, sequence, union, unreadable
from .hints import type_hints
from .named import Named
from .plain_data import plain
from .problems import ABSENT, Invalid, Problem, failure, gathered
from .scalars import read_bool, read_float, read_int, read_literal, read_path, read_text, wrong
from .spec import SpecError, split_list

if TYPE_CHECKING:
    from ..registry import Registry

MOST = 64
"""The number of components of one list, at most."""
UNIONS = (Union, types.UnionType)


@attrs.frozen
class _Kind:
    """The mark of a hint whose values are components: ``Annotated[Named, _Kind("kl")]``."""

    name: str


@attrs.frozen(eq=False)
class _Checked:
    """The mark of a hint whose values the validator of a field looks at: ``Annotated[float, _Checked(field)]``."""

    field: Any


@functools.lru_cache(maxsize=16)
def make_converter(registry: Registry) -> cattrs.Converter:
    """A strict converter whose component fields take their names from ``registry``; it raises :class:`Invalid`.

    There is one for each registry, since cattrs compiles a function for each class that it reads.
    """
    converter = cattrs.Converter(
        detailed_validation=True, forbid_extra_keys=True, structure_fallback_factory=unreadable
    )
    scalars: dict[Any, Hook] = {bool: read_bool, int: read_int, float: read_float, str: read_text, Path: read_path}
    for scalar, read in scalars.items():
        converter.register_structure_hook(scalar, read)
    converter.register_structure_hook_func(lambda hint: origin(hint) is Literal, read_literal)

    def component_hook(hint: Any) -> Hook:
        return lambda value, _: _component(converter, registry, hint.__metadata__[-1].name, value)

    shapes: list[tuple[Callable[[Any], bool], Callable[[Any], Hook]]] = [
        (lambda hint: origin(hint) in UNIONS, lambda hint: functools.partial(union, converter)),
        (lambda hint: origin(hint) in (tuple, list, Sequence), functools.partial(sequence, converter)),
        (lambda hint: origin(hint) in (dict, Mapping), functools.partial(mapping, converter)),
        (attrs.has, functools.partial(_class, converter)),
        (lambda hint: isinstance(_mark(hint), _Kind), component_hook),
        (_is_component_list, functools.partial(_components, converter)),
        (lambda hint: isinstance(_mark(hint), _Checked), functools.partial(_in_range, converter)),
    ]
    for matches, factory in shapes:
        converter.register_structure_hook_factory(matches, factory)
    return converter


# --- classes --------------------------------------------------------------------------------------------------------


def _fields(cls: type) -> list[Any]:
    return [field for field in attrs.fields(cls) if field.init]


def _class(converter: cattrs.Converter, cls: type) -> Hook:
    """A hook for an attrs class; unknown keys, wrong types and values out of range of all fields are collected."""
    fields, hints = _fields(cls), type_hints(cls)
    unstated = {field.alias: _unstated(field) for field in fields if _unstated(field) is not ABSENT}
    read_arguments = make_dict_structure_fn_from_attrs(
        # cattrs knows a field by one name, which is the key of the data
        [field.evolve(name=field.alias, type=_hint(field, hints[field.name])) for field in fields],
        dict,  # not the class itself: a value that the class refuses is told with its key
        converter,
        _cattrs_use_linecache=False,
    )

    def read(value: object, _: object) -> Any:
        if not isinstance(value, Mapping):
            raise wrong(value, f"a mapping with keys such as {', '.join(field.alias for field in fields[:3])}")
        require_text_keys(value)
        try:
            arguments = read_arguments({**unstated, **value}, dict)
        except BaseValidationError as group:
            raise gathered(group, value, [field.alias for field in fields]) from None
        return _made(cls, arguments)

    return read


def _unstated(field: Any) -> Any:
    """What a key stands for that is not given, where the default of its field must be read; ``ABSENT`` elsewhere."""
    if "kind" in field.metadata:
        return None if field.default is attrs.NOTHING else field.default
    section = getattr(field.default, "factory", None)
    return {} if section is not None and attrs.has(section) else ABSENT


def _hint(field: Any, hint: Any) -> Any:
    """The type of a field with the mark that a hook knows it by."""
    if kind := field.metadata.get("kind"):
        component = Annotated[Named, _Kind(kind)]
        if field.metadata.get("many"):
            return tuple[component, ...]
        return component | None if type(None) in typing.get_args(hint) else component
    return Annotated[hint, _Checked(field)] if _is_checked(field) else hint


def _is_checked(field: Any) -> bool:
    """Whether the validator of a field speaks of the value as it is read; a converter may make another one of it."""
    return field.validator is not None and field.converter is None


def _mark(hint: object) -> object:
    """The mark of a hint, which comes after those that its author has given it; ``None`` where it has none."""
    return getattr(hint, "__metadata__", (None,))[-1]


def _in_range(converter: cattrs.Converter, hint: Any) -> Hook:
    """A hook that reads a field and asks the validator of the field about the value.

    A validator that looks at other fields has its say when the instance is made.
    """
    field, below = hint.__metadata__[-1].field, hint.__origin__
    hook = converter.get_structure_hook(below)

    def read(value: object, _: object) -> Any:
        result = hook(value, below)
        if problem := _range_problem(field, result, {}):
            raise Invalid(problem)
        return result

    return read


def _range_problem(field: Any, value: object, others: Mapping[str, Any]) -> Problem | None:
    """What a field's own validator says of a value beside the values of other fields."""
    try:
        field.validator(types.SimpleNamespace(**others), field, value)
    except (ValueError, TypeError) as error:
        text = str(error.args[0] if error.args else error)
        for name in (f"'{field.name}' ", f"{field.name} "):
            text = text.removeprefix(name)
        return Problem(text.removesuffix(f": {value}").removesuffix(f", got {value}"), value=plain(value))
    except Exception:
        return None  # it looks at a field that is not there yet, or is broken: making the instance says which
    return None


def _made(cls: type, arguments: Mapping[str, Any]) -> Any:
    """The instance; whatever the class itself refuses is told with the key of the field that refuses it."""
    try:
        return cls(**arguments)
    except (ValueError, TypeError) as error:
        values = {field.name: arguments.get(field.alias, field.default) for field in _fields(cls)}
        checked = [field for field in _fields(cls) if _is_checked(field)]
        refused = [(field.alias, _range_problem(field, values[field.name], values)) for field in checked]
        problems = [problem.under(key) for key, problem in refused if problem is not None]
        raise Invalid(*(problems or [Problem(str(error.args[0]) if error.args else str(error))])) from error


# --- components -----------------------------------------------------------------------------------------------------


def _is_component_list(hint: object) -> bool:
    return origin(hint) is tuple and isinstance(_mark((*typing.get_args(hint), None)[0]), _Kind)


def _component(converter: cattrs.Converter, registry: Registry, kind: str, value: object) -> Named:
    if value is None:
        fix = f"choose one of: {', '.join(registry.names(kind))}"
        raise Invalid(Problem("is missing, and has no default", fix=fix))
    return structure_component(converter, registry, kind, value)


def _components(converter: cattrs.Converter, hint: Any) -> Hook:
    """A hook for a list of components, each of which may stand there once."""
    of_items: Any = types.GenericAlias(list, typing.get_args(hint)[:1])
    read_items = list_structure_factory(of_items, converter)

    def read(value: object, _: object) -> tuple[Named, ...]:
        try:
            items = split_list(value) if isinstance(value, str) else value
        except SpecError as error:
            raise Invalid(Problem(error.what, value=value, fix=error.fix)) from error
        if not isinstance(items, list | tuple):
            raise wrong(items, "a list of components")
        if len(items) > MOST:
            raise Invalid(Problem(f"holds {len(items)} components, and {MOST} is the most"))
        try:
            chosen = tuple(read_items(items, hint))
        except BaseValidationError as group:
            raise gathered(group, items) from None
        names = [named.name for named in chosen]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Invalid(Problem(f"{', '.join(twice)} stands there twice"))
        return chosen

    return read


def structure_component(converter: cattrs.Converter, registry: Registry, kind: str, value: object) -> Named:
    """The component that a value spells, made with its parameters. Raises Invalid; MissingExtraError passes through."""
    params = component_mapping(registry, kind, value)
    name = params.pop("name")
    target = registry.resolve(kind, name)
    unknown = [key for key in params if key not in registry.signature(kind, name).parameters]
    problems = [unknown_parameter(registry, kind, name, key, params.pop(key)) for key in unknown]
    plugin = str(registry.entry(kind, name).plugin)
    try:
        if inspect.isclass(target) and attrs.has(target):
            component = converter.structure(params, target)
            params = plain(component)
        else:
            component = registry.create(kind, name, **params)
    except Invalid as error:
        problems += error.problems
    except MissingExtraError:
        raise
    except UncollapseError as error:
        problems.append(Problem(error.what, fix=error.fix))
    except Exception as error:
        problems.append(failure(f"{kind} {name!r} of {plugin}", "the making of it", error))
    if problems:
        raise Invalid(*problems)
    return Named(kind, name, params, component, plugin)
