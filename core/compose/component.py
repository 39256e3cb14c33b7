"""The spelling of a component, as a mapping with its name and its parameters by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError, RequestError, UncollapseError, nearest
from .plain_data import plain
from .problems import Invalid, Problem
from .spec import SpecError, read_spec

if TYPE_CHECKING:
    from ..registry import Registry


def component_mapping(registry: Registry, kind: str, value: object) -> dict[str, Any]:
    """What a spelling says, as a mapping with ``name`` and the parameters by their names; aliases are resolved.

    Raises Invalid for what cannot be read or is not registered; MissingExtraError passes through.
    """
    try:
        spec = read_spec(value)
        name = registry.entry(kind, spec.name).name
        signature = registry.signature(kind, name)
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


def unknown_parameter(registry: Registry, kind: str, name: str, key: str, value: object) -> Problem:
    """What is said of a parameter that the component ``name`` does not have: which other components have it."""
    parameters = registry.signature(kind, name).parameters
    advice = nearest(key, parameters) if parameters else "it has none"
    owners = [other for other in registry.names(kind) if key in _parameters(registry, kind, other)]
    fix = f"{advice}; {key!r} is a parameter of {', '.join(owners)}" if owners else advice
    return Problem(f"{name} has no such parameter", key, value, fix)


def _parameters(registry: Registry, kind: str, name: str) -> tuple[str, ...]:
    """The parameters of a component; none of one that cannot be loaded here, which has nothing to suggest."""
    try:
        return tuple(registry.signature(kind, name).parameters)
    except UncollapseError:
        return ()
