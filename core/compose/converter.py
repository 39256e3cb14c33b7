"""Strict structuring: plain data -> attrs classes by their type hints, and back.

Nothing is guessed: ``"false"`` is no bool, 3.9 no int, 5 no text and an unknown key an error. The one widening is that
1 is a fine float. Every problem of a value is collected, with its key, what stands there and what should.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

import attrs
import cattrs
from cattrs.errors import StructureHandlerNotFoundError

from ..errors import MissingExtraError, RequestError, UncollapseError, nearest
from .experiment import Named
from .problems import ABSENT, Invalid, Problem, failure, show
from .scalars import read_bool, read_float, read_int, read_literal, read_path, read_text, wrong
from .spec import SpecError, read_spec, split_list

if TYPE_CHECKING:
    from ..registry import Registry

UNKNOWN_KEY = "unknown key"
MOST = 64
"""Components of one list."""
UNIONS = (Union, types.UnionType)


def make_converter(registry: Registry) -> cattrs.Converter:
    """A strict converter whose component fields take their names from ``registry``; it raises :class:`Invalid`."""
    converter = cattrs.Converter(detailed_validation=False)
    scalars: dict[Any, Callable[[Any, Any], Any]] = {
        bool: read_bool,
        int: read_int,
        float: read_float,
        str: read_text,
        Path: read_path,
    }
    for scalar, read in scalars.items():
        converter.register_structure_hook(scalar, read)
    shapes: list[tuple[Callable[[Any], bool], Callable[[Any, Any], Any]]] = [
        (lambda hint: typing.get_origin(hint) is Literal, read_literal),
        (lambda hint: typing.get_origin(hint) in UNIONS, lambda value, hint: _union(converter, value, hint)),
        (lambda hint: _origin(hint) in (tuple, list, Sequence), lambda value, hint: _sequence(converter, value, hint)),
        (lambda hint: _origin(hint) in (dict, Mapping), lambda value, hint: _mapping(converter, value, hint)),
        (attrs.has, lambda value, cls: _class(converter, registry, value, cls)),
    ]
    for matches, hook in shapes:
        converter.register_structure_hook_func(matches, hook)
    return converter


def plain(value: object) -> Any:
    """The plain data (mappings, lists, text, numbers) that structures back to an equal value."""
    if isinstance(value, Named):
        return {"name": value.name, **plain(value.params)} if value.params else value.name
    if attrs.has(type(value)):
        return {field.alias: plain(getattr(value, field.name)) for field in _fields(type(value))}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


# --- containers -----------------------------------------------------------------------------------------------------


def _origin(hint: object) -> object:
    return typing.get_origin(hint) or hint


def _union(converter: cattrs.Converter, value: object, hint: Any) -> Any:
    members = [member for member in typing.get_args(hint) if member is not type(None)]
    optional = len(members) < len(typing.get_args(hint))
    if value is None and optional:
        return None
    if len(members) == 1:
        return converter.structure(value, members[0])
    reasons = []
    for member in members:
        try:
            return converter.structure(value, member)
        except Invalid as error:
            reasons += [problem.reason.removeprefix("must be ") for problem in error.problems]
    raise wrong(value, ", or ".join(dict.fromkeys(reasons)))


def _sequence(converter: cattrs.Converter, value: object, hint: Any) -> Any:
    origin, hints = _origin(hint), typing.get_args(hint)
    if not isinstance(value, list | tuple):
        raise wrong(value, "a list", f"write [{show(value)}]" if isinstance(value, str | int | float) else "")
    if origin is tuple and hints and hints[-1] is not Ellipsis:
        if len(value) != len(hints):
            raise wrong(value, f"a list of {len(hints)}")
        item_hints = list(hints)
    else:
        item_hints = [hints[0] if hints else Any] * len(value)
    pairs = zip(value, item_hints, strict=True)
    items = _collect(
        (str(index), functools.partial(_read, converter, item, inner)) for index, (item, inner) in enumerate(pairs)
    )
    return list(items.values()) if origin is list else tuple(items.values())


def _mapping(converter: cattrs.Converter, value: object, hint: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise wrong(value, "a mapping of keys to values")
    _text_keys(value)
    inner = (*typing.get_args(hint), Any, Any)[1]
    return _collect((key, functools.partial(_read, converter, item, inner)) for key, item in value.items())


def _text_keys(value: Mapping[Any, Any]) -> None:
    if odd := [key for key in value if not isinstance(key, str)]:
        raise Invalid(*(Problem(f"the key {show(key)} is not text", fix="put it in quotes") for key in odd))


def _collect(readers: Iterable[tuple[str, Callable[[], Any]]]) -> dict[str, Any]:
    """Call every reader and give the results by key; raise the problems of all together."""
    results, problems = {}, []
    for key, reader in readers:
        try:
            results[key] = reader()
        except Invalid as error:
            problems += [problem.under(key) for problem in error.problems]
    if problems:
        raise Invalid(*problems)
    return results


def _read(converter: cattrs.Converter, value: object, hint: Any) -> Any:
    try:
        return converter.structure(value, hint)
    except StructureHandlerNotFoundError as error:
        raise Invalid(Problem(f"has a type that no file can hold: {hint}", value=value)) from error


# --- classes and components -----------------------------------------------------------------------------------------


def _fields(cls: type) -> list[Any]:
    return [field for field in attrs.fields(cls) if field.init]


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        name = f"{cls.__module__}.{cls.__qualname__}"
        raise UncollapseError(
            f"the types of the parameters of {name} cannot be read: {error}", name, "import them at run time, too"
        ) from error


def _class(converter: cattrs.Converter, registry: Registry, value: object, cls: type) -> Any:
    """An instance of an attrs class; unknown keys, wrong types and values out of range of all fields are collected."""
    if not isinstance(value, Mapping):
        raise wrong(value, f"a mapping with keys such as {', '.join(field.alias for field in _fields(cls)[:3])}")
    _text_keys(value)
    hints, fields = _hints(cls), {field.alias: field for field in _fields(cls)}
    problems = [Problem(UNKNOWN_KEY, key, value[key], nearest(key, fields)) for key in value if key not in fields]
    arguments: dict[str, Any] = {}
    for key, field in fields.items():
        try:
            if (given := value.get(key, ABSENT)) is not ABSENT or "kind" in field.metadata:
                given = field.default if given is ABSENT else given
                arguments[key] = read_field(converter, registry, field, hints[field.name], given)
            elif (section := getattr(field.default, "factory", None)) is not None and attrs.has(section):
                arguments[key] = converter.structure({}, section)
            elif field.default is attrs.NOTHING:
                raise Invalid(Problem("is missing, and has no default"))
        except Invalid as error:
            problems += [problem.under(key) for problem in error.problems]
    for key in arguments:
        problems += _range_problem(fields[key], arguments)
    if problems:
        raise Invalid(*problems)
    try:
        return cls(**arguments)
    except (ValueError, TypeError) as error:
        raise Invalid(Problem(str(error.args[0]) if error.args else str(error))) from error


def read_field(converter: cattrs.Converter, registry: Registry, field: Any, hint: Any, value: object) -> Any:
    """The value of one field of an attrs class; its validator has not looked at it. Raises Invalid."""
    kind = field.metadata.get("kind")
    if kind is None:
        return _read(converter, value, hint)
    if field.metadata.get("many"):
        return _components(converter, registry, kind, value)
    if value is None and type(None) in typing.get_args(hint):
        return None
    if value is None or value is attrs.NOTHING:
        raise Invalid(
            Problem("is missing, and has no default", fix=f"choose one of: {', '.join(registry.names(kind))}")
        )
    return structure_component(converter, registry, kind, value)


def _range_problem(field: Any, arguments: Mapping[str, Any]) -> list[Problem]:
    """What a field's own validator says of the value that was read."""
    if field.validator is None or field.converter is not None:
        return []
    value = arguments[field.alias]
    try:
        # Other fields may be unreadable; a validator that looks at them has its say when the instance is made.
        field.validator(types.SimpleNamespace(**arguments), field, value)
    except (ValueError, TypeError) as error:
        text = str(error.args[0] if error.args else error)
        for name in (f"'{field.name}' ", f"{field.name} "):
            text = text.removeprefix(name)
        return [Problem(text.removesuffix(f": {value}").removesuffix(f", got {value}"), field.alias, plain(value))]
    except Exception:
        return []  # it looks at another field that is unreadable, or is broken: making the instance says which
    return []


def _components(converter: cattrs.Converter, registry: Registry, kind: str, value: object) -> tuple[Named, ...]:
    if isinstance(value, str):
        try:
            value = split_list(value)
        except SpecError as error:
            raise Invalid(Problem(error.what, value=value, fix=error.fix)) from error
    if not isinstance(value, list | tuple):
        raise wrong(value, "a list of components")
    if len(value) > MOST:
        raise Invalid(Problem(f"holds {len(value)} components, and {MOST} is the most"))
    items = _collect(
        (str(index), functools.partial(structure_component, converter, registry, kind, item))
        for index, item in enumerate(value)
    )
    chosen = tuple(items.values())
    names = [named.name for named in chosen]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Invalid(Problem(f"{', '.join(twice)} stands there twice"))
    return chosen


def component_mapping(registry: Registry, kind: str, value: object) -> dict[str, Any]:
    """What a spelling says, as a mapping with ``name`` and the parameters by their names; aliases are resolved.

    Raises Invalid for what cannot be read or is not registered; MissingExtraError passes through.
    """
    try:
        spec = read_spec(value)
        name = registry.entry(kind, spec.name).name
        signature = _signature(registry, kind, name)
    except MissingExtraError:
        raise
    except RequestError as error:
        reason = f"{error.what} ({error.where})" if error.where and not isinstance(error, SpecError) else error.what
        raise Invalid(Problem(reason, value=plain(value), fix=error.fix)) from error
    positions = [
        key for key, parameter in signature.parameters.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if len(spec.args) > len(positions):
        raise Invalid(Problem(f"{name} takes at most {len(positions)} positional values", value=str(spec)))
    params = dict(zip(positions, spec.args, strict=False))
    if twice := params.keys() & spec.params.keys():
        raise Invalid(*(Problem("is given twice, by position and by name", key) for key in sorted(twice)))
    return {"name": name, **params, **spec.params}


def structure_component(converter: cattrs.Converter, registry: Registry, kind: str, value: object) -> Named:
    """The component that a value spells, made with its parameters. Raises Invalid; MissingExtraError passes through."""
    params = component_mapping(registry, kind, value)
    name = params.pop("name")
    target = registry.resolve(kind, name)
    known = _signature(registry, kind, name).parameters
    plugin = str(registry.entry(kind, name).plugin)
    problems = []
    for key in params.keys() - known.keys():
        fix = f"{nearest(key, known) if known else 'it has none'}{_owners(registry, kind, key)}"
        problems.append(Problem(f"{name} has no such parameter", key, params.pop(key), fix))
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


def _signature(registry: Registry, kind: str, name: str) -> inspect.Signature:
    """Raises RequestError where a target has none."""
    try:
        return inspect.signature(registry.resolve(kind, name))
    except (ValueError, TypeError) as error:
        what = f"the parameters of {registry.entry(kind, name)} cannot be read: {error}"
        raise RequestError(what, str(registry.entry(kind, name).plugin), "mend its plugin") from error


def _owners(registry: Registry, kind: str, parameter: str) -> str:
    """``; 'prob_mode' is a parameter of top_p``: which other components of the kind have it."""
    owners = []
    for name in registry.names(kind):
        try:
            if parameter in _signature(registry, kind, name).parameters:
                owners.append(name)
        except UncollapseError:
            continue  # one that cannot be loaded here has nothing to suggest
    return f"; {parameter!r} is a parameter of {', '.join(owners)}" if owners else ""
