"""Base classes of what gives credit: an advantage estimator, and its session in a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .component import Component

if TYPE_CHECKING:
    from .data import Advantages
    from .inputs import CreditInputs


class AdvantageEstimator(Component):
    """An advantage estimator gives each sampled token its credit, from all rows of a step. Kind ``advantage``.

    One that learns from step to step writes :meth:`start` as well, and its session has what was learnt.
    """

    __slots__ = ()

    @abstractmethod
    def compute(self, batch: CreditInputs) -> Advantages:
        """Return advantages and returns, [B, T], zero off the mask. ``batch`` holds all that ``needs`` declares.

        With a session of its own, it is what one that has just begun gives: ``return self.start().compute(batch)``.
        """

    def start(self) -> AdvantageEstimatorSession:
        """Return the session of one run, which computes the advantages of its steps. By default it has no state.

        Every rank has a session, and each is given the same batches. Estimators that are parameters of this one need no
        care: a run has started and saves their sessions, so that their ``compute`` goes on from step to step.
        """
        return _Stateless(self)


class AdvantageEstimatorSession(ABC):
    """An advantage estimator in a run."""

    __slots__ = ()

    @abstractmethod
    def compute(self, batch: CreditInputs) -> Advantages:
        """Return advantages and returns of the next step, as :meth:`AdvantageEstimator.compute` does.

        It is called once in every step that trains, in their order; never for a step of which no row is left.
        """

    def metrics(self) -> dict[str, float]:
        """Return numbers about the last :meth:`compute`, logged as ``advantage/NAME``."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs; what JSON can hold."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""


class _Stateless(AdvantageEstimatorSession):
    """The session of an estimator for which all steps are alike."""

    __slots__ = ("_estimator",)

    def __init__(self, estimator: AdvantageEstimator) -> None:
        self._estimator = estimator

    def compute(self, batch: CreditInputs) -> Advantages:
        return self._estimator.compute(batch)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return None
