"""The detectors of a run measure and judge every step; here a broken one is named, or left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ....core.components import CollapseSession, Rollouts, Verdict
from ....core.compose.blame import is_foreign, told
from ....core.compose.named import Named
from ....core.errors import RunError
from ....core.files import to_json
from ....core.surroundings import restored
from .borders import RESERVED, changes, contents, tensors
from .pending import PendingUpdate


class Detectors:
    """The sessions of all detectors.

    A detector that raises, or measures what is not a finite number, ends the run with an error that names it. One whose
    component has ``fatal = False`` is left out from then on instead, and :attr:`broken` gives the reason.
    """

    def __init__(self, named: Sequence[Named], context: Any) -> None:
        self.sessions: dict[str, CollapseSession] = {}
        self.broken: dict[str, str] = {}
        """Name -> the reason why the detector was left out."""
        self._fatal = {detector.name: detector.component.fatal for detector in named}
        for detector in named:
            with self._guarded(detector.name, "start"):
                session = detector.component.start(context)
                if not isinstance(session, CollapseSession):
                    raise TypeError(f"it gave a {type(session).__name__}, not a CollapseSession")
                self.sessions[detector.name] = session

    def measure(self, rollouts: Rollouts, scorer: Any) -> dict[str, float]:
        """Return the metrics of this step's rollouts. Raises RunError for a broken detector."""
        return self._metrics("measure", lambda session: session.measure(rollouts, scorer), tensors(rollouts))

    def before_update(self, update: PendingUpdate) -> dict[str, float]:
        """Return the metrics from just before the policy update. Raises RunError for a broken detector."""
        return self._metrics("before_update", lambda session: session.before_update(update))

    def after_update(self, update: PendingUpdate) -> dict[str, float]:
        """Return the metrics from just after the policy update. Raises RunError for a broken detector."""
        return self._metrics("after_update", lambda session: session.after_update(update))

    def judge(self, step: int, metrics: Mapping[str, float]) -> list[Verdict]:
        """Return the verdicts of all detectors on this step. Raises RunError for a broken detector."""
        verdicts: list[Verdict] = []
        for name, session in list(self.sessions.items()):
            with self._guarded(name, "judge"):
                verdict = session.judge(step, dict(metrics))
                if not isinstance(verdict, Verdict | None):
                    raise TypeError(f"it gave a {type(verdict).__name__}, not a Verdict or None")
                if verdict is not None:
                    verdicts.append(verdict)
        return verdicts

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each session by the name of its detector."""
        states = {}
        for name, session in list(self.sessions.items()):
            with self._guarded(name, "state_dict"):
                states[name] = session.state_dict()
                to_json(states[name])  # as a checkpoint keeps it
        return states

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned; a detector that is new begins anew."""
        for name, session in list(self.sessions.items()):
            if name in state:
                with self._guarded(name, "load_state_dict"):
                    session.load_state_dict(state[name])

    def _metrics(
        self, method: str, call: Callable[[CollapseSession], Any], given: Mapping[str, Tensor] | None = None
    ) -> dict[str, float]:
        """Return what the sessions measure, after a check that none has changed the tensors that it was ``given``."""
        metrics: dict[str, float] = {}
        for name, session in list(self.sessions.items()):
            with self._guarded(name, method):
                before = contents(given or {})
                measured = call(session)
                if changed := changes(given or {}, before):
                    raise ValueError(f"it changed {changed[0]} in place, which others still need: clone it first")
                metrics |= _checked(measured)
        return metrics

    @contextmanager
    def _guarded(self, name: str, method: str) -> Iterator[None]:
        """Call a detector: an error in the block ends the run, or leaves this detector out."""
        try:
            with restored() as changed:
                yield
            if changed:
                raise ValueError(f"it changed {', '.join(changed)} for the whole process, and must not")
        except BaseException as error:
            if not is_foreign(error):
                raise
            reason = told(error)
            if self._fatal[name]:
                fix = "mend it, take it out of collapse, or give its class fatal = False"
                raise RunError(f"the detector {name} failed in {method}: {reason}", f"collapse.{name}", fix) from error
            self.broken[name] = reason
            self.sessions.pop(name, None)


def _checked(metrics: Any) -> dict[str, float]:
    """Return the metrics if they are finite and have names of their own. Raises ValueError otherwise."""
    if not isinstance(metrics, Mapping):
        raise ValueError(f"it gave a {type(metrics).__name__}, not a mapping of metrics")
    for name, value in metrics.items():
        if not isinstance(name, str) or name == "step" or name.partition("/")[0] in RESERVED:
            raise ValueError(f"the name {name!r} is not a detector's to give: write collapse/...")
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
    return dict(metrics)
