"""The verifier ``json_schema`` finds an answer right if it is JSON that a schema accepts."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
from jsonschema import validators
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from ...core.components import Verifier
from ...core.errors import RequestError
from ...core.paths import read_text

_FENCE = "```"


def _checked(verifier: object, attribute: attrs.Attribute[Any], schema: object) -> None:
    if isinstance(schema, dict):
        _validator(json.dumps(schema))


@attrs.frozen
class JsonSchema(Verifier):
    """An answer is right if it is JSON that a JSON Schema accepts, whatever its values are otherwise.

    The answer is the JSON alone, or in one fenced block. Text that is no JSON is invalid, and so are ``NaN`` and
    ``Infinity``. A schema says by ``$schema`` which draft it is of, by default 2020-12. Its ``$ref`` are looked up in
    the schema itself, and never on the network; ``format`` is not checked.

    Without ``schema``, the right answers of a question are the schemas of its answers, one of which is enough.
    """

    instruction = "Answer with JSON alone, without text around it."

    schema: dict[str, Any] | str | None = attrs.field(default=None, validator=_checked)
    """Schema of all answers: a mapping, or the path of a JSON file."""

    def verify(self, answer: str, golds: Sequence[str]) -> bool | None:
        """Return whether a schema accepts the answer. Raises RequestError if the schema cannot be read or used."""
        try:
            value = _read(_unfenced(answer))
        except (ValueError, RecursionError):
            return None
        return any(_accepts(schema, value) for schema in self._schemas(golds))

    def objection(self, question: str, golds: Sequence[str]) -> str:
        for schema in self._schemas(golds):
            try:
                _validator(schema)
                lost = next(_lost_references(_read(schema)), None)
            except (ValueError, RecursionError) as error:
                return f"is no JSON Schema: {str(error).partition(chr(10))[0]}"
            if lost is not None:
                return f"refers to {lost!r}, which does not stand in the schema"
        return ""

    def _schemas(self, golds: Sequence[str]) -> list[str]:
        """Return the texts of the schemas, one of which must accept the answer."""
        if self.schema is None:
            return list(golds)
        return [json.dumps(self.schema) if isinstance(self.schema, dict) else _file(self.schema)]


@functools.lru_cache(64)
def _file(path: str) -> str:
    try:
        return read_text(path)
    except RequestError as error:
        fix = error.fix or "give the path of a JSON file, or the schema itself"
        raise RequestError(error.what, "the parameter schema of the verifier json_schema", fix) from error


@functools.lru_cache(4096)
def _validator(schema: str) -> Validator:
    """Return what checks by a schema. Raises ValueError if it is no schema."""
    read = _read(schema)
    if not isinstance(read, dict | bool):
        raise ValueError("it is neither a mapping nor true or false")
    cls = validators.validator_for(read, default=validators.Draft202012Validator)
    try:
        cls.check_schema(read)
    except SchemaError as error:
        raise ValueError(error.message) from error
    return cls(read, registry=Registry())  # one that finds nothing, on the network least of all


def _accepts(schema: str, value: Any) -> bool:
    try:
        _validator(schema).validate(value)
    except (ValidationError, RecursionError):
        return False
    except Unresolvable as error:
        raise RequestError(f"a JSON Schema refers to {error.ref!r}, which does not stand in it") from error
    return True


def _lost_references(schema: Any) -> Iterator[str]:
    """Yield the references that lead nowhere, wherever in the schema they stand."""
    root = Resource.from_contents(schema, default_specification=DRAFT202012)
    places = [(root, Registry().resolver_with_root(root))]
    while places:
        resource, resolver = places.pop()
        for name in ("$ref", "$dynamicRef") if isinstance(resource.contents, dict) else ():
            reference = resource.contents.get(name)
            try:
                if isinstance(reference, str):
                    resolver.lookup(reference)
            except Unresolvable:
                yield reference
        places += [(part, resolver.in_subresource(part)) for part in resource.subresources()]


def _read(text: str) -> Any:
    """Read JSON. Raises ValueError, also for what JSON does not have, and for two members of one name."""
    return json.loads(text, parse_constant=_refuse, object_pairs_hook=_members)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("two members have the same name")
    return members


def _unfenced(answer: str) -> str:
    """Return what stands in a fenced block, where the answer is one."""
    text = answer.strip()
    first, _, rest = text.partition("\n")
    if first.startswith(_FENCE) and rest.endswith(_FENCE):
        return rest.removesuffix(_FENCE)
    return text
