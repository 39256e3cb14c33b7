"""Fields of the schema: what kind of value a key takes, and within which bounds."""

from __future__ import annotations

import math
from typing import Any

import attrs

from ..describe import allows_none
from ..paths import unusable
from .inner import all_named, named_of

COUNT = 10**7
"""Of steps, rows and the like, at most."""
TOKENS, TURNS, RANK = 2**24, 10**4, 2**13
"""Of a row, of an episode, of an adapter, at most: far beyond what any model takes."""


def component(kind: str, default: str | None = None) -> Any:
    """A field that holds a component of ``kind``, by default the one named ``default`` (``None``: absent).

    In the class of a component it makes a parameter that takes another component: ``of: Any = component("policy_loss",
    "ppo")`` is given as ``top_entropy(of=gspo)``, and the component's own methods find it in ``self.of.component``.
    """

    def read(value: object, attribute: attrs.Attribute[Any]) -> Any:
        if value is None and allows_none(attribute.type):
            return None
        return named_of(kind, value, attribute.name)

    return attrs.field(default=default, metadata={"kind": kind}, converter=attrs.Converter(read, takes_field=True))


def components(kind: str, *default: str, alias: str | None = None) -> Any:
    """A field that holds a list of components of ``kind``; ``alias`` is its parameter, if that has another name."""

    def read(values: object, attribute: attrs.Attribute[Any]) -> Any:
        return all_named(kind, values, attribute.alias or attribute.name)

    metadata = {"kind": kind, "many": True}
    converter = attrs.Converter(read, takes_field=True)
    return attrs.field(default=default, metadata=metadata, converter=converter, alias=alias)


def section(cls: type) -> Any:
    """A field that holds a section of the file, by default with all of its defaults."""
    return attrs.field(factory=cls)


def number(
    default: float | None, minimum: float, maximum: float = math.inf, *, above: bool = False, or_minus_1: bool = False
) -> Any:
    """A field that holds a finite number from ``minimum`` (``above``: not itself) to ``maximum``.

    Where the field's type allows it, ``None`` is accepted as well.
    """

    def check(instance: object, attribute: attrs.Attribute[float], value: float | None) -> None:
        if value is None:
            return
        inside = minimum < value <= maximum or (value == minimum and not above)
        if not math.isfinite(value) or not (inside or (or_minus_1 and value == -1)):
            bounds = [f"above {minimum}" if above else f"at least {minimum}"] if math.isfinite(minimum) else []
            bounds += [f"at most {maximum}"] if maximum < value or maximum < COUNT else []
            bounds += [] if math.isfinite(value) else ["finite"]
            raise ValueError(f"must be {' and '.join(bounds)}{', or -1' if or_minus_1 else ''}")

    return attrs.field(default=default, validator=check)


def count(default: int, minimum: int = 1, maximum: int = COUNT, **options: bool) -> Any:
    """A field that holds a whole number of things; more than ``maximum`` of them fit no machine, or mean nothing."""
    return number(default, minimum, maximum, **options)


def seed(default: int) -> Any:
    """A field that holds a seed that every generator of random numbers takes."""
    return number(default, 0, 2**32 - 1)


def temperature(default: float, *, greedy: bool) -> Any:
    """A field that holds a temperature whose logits stay finite; where ``greedy``, 0 is the most likely token."""
    least = 1e-6

    def check(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
        if not (least <= value < math.inf or (greedy and value == 0)):
            raise ValueError(f"must be at least {least} and finite{', or 0 (greedy)' if greedy else ', and above 0'}")

    return attrs.field(default=default, validator=check)


def directory() -> Any:
    """A field that may hold a Hugging Face name or the path of a directory, which need not be there yet."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: str | None) -> None:
        if value is not None and (reason := unusable(value)):
            raise ValueError(f"is no path: it {reason}")

    return attrs.field(default=None, validator=check)


def betas() -> Any:
    """A field that holds the decay rates of Adam's two moments, each in [0, 1)."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: tuple[float, float]) -> None:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("must be two numbers of at least 0 and below 1")

    return attrs.field(default=(0.9, 0.999), validator=check)
