"""What components of every kind have in common."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class Component(ABC):  # noqa: B024 - its subclasses in this package have the abstract methods
    """The base class of every kind. It holds what any component may declare, beside the methods of its kind."""

    __slots__ = ()

    needs: ClassVar[frozenset[str]] = frozenset()
    """Names of the data that the component must be given, a subset of :data:`NEEDS`."""
    target_entropies: ClassVar[tuple[float, ...]] = ()
    """Entropies (nats per token) that the component steers to. None can be above the log of the vocabulary's size."""

    starts_programs: ClassVar[bool] = False
    """Whether the component starts programs that its parameters name. Those of a run directory are then started only
    for who trusts it, and never before the experiment is composed."""

    in_comparison: ClassVar[Mapping[str, Any]] = {}
    """What ``uncollapse sweep run interventions`` gives the component where its defaults are not enough: parameters by
    their names, and settings of the experiment by their dotted keys. Required parameters must stand here for the
    component to take part."""

    def check(self, experiment: Any) -> Iterable[str]:
        """Return the reasons why the component cannot work in ``experiment``; by default none.

        It is called once the experiment is composed, so each key by itself is valid. Each reason is one sentence.
        """
        return ()
