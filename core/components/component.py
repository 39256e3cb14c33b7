"""What components of every kind have in common."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable
from typing import Any, ClassVar


class Component(ABC):  # noqa: B024 - its subclasses in this package have the abstract methods
    """The base of the classes of all kinds: what a component may say beside what its kind asks for."""

    __slots__ = ()

    needs: ClassVar[frozenset[str]] = frozenset()
    """What it must be given, a subset of :data:`NEEDS`."""

    def check(self, experiment: Any) -> Iterable[str]:
        """The reasons why it cannot work in a composed experiment, whose every key is right."""
        return ()
