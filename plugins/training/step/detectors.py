"""The collapse detectors of a run: what they measure, what they judge, and what happens when one of them is broken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ....core.components import CollapseSession, Rollouts, Verdict
from ....core.compose.blame import is_foreign, told
from ....core.compose.experiment import Named
from ....core.errors import RunError
from ....core.files import to_json
from ....core.surroundings import restored
from .borders import RESERVED, changes, contents, tensors
from .pending import PendingUpdate


class Detectors:
    """The sessions of all detectors.

    A detector that raises, or measures what is not a finite number, ends the run with an error that names it. One whose
    component says ``fatal = False`` is left out from then on instead, and :attr:`broken` says why.
    """

    def __init__(self, named: Sequence[Named], context: Any) -> None:
        self.sessions: dict[str, CollapseSession] = {}
        self.broken: dict[str, str] = {}
        """Name -> why it was left out."""
        self._fatal = {detector.name: detector.component.fatal for detector in named}
        for detector in named:
            with self._guarded(detector.name, "start"):
                session = detector.component.start(context)
                if not isinstance(session, CollapseSession):
                    raise TypeError(f"it gave a {type(session).__name__}, not a CollapseSession")
                self.sessions[detector.name] = session

    def measure(self, rollouts: Rollouts, scorer: Any) -> dict[str, float]:
        """The metrics of this step's rollouts. Raises RunError for a broken detector."""
        return self._metrics("measure", lambda session: session.measure(rollouts, scorer), tensors(rollouts))

    def before_update(self, update: PendingUpdate) -> dict[str, float]:
        """The metrics of those detectors that look at the policy update. Raises RunError for a broken detector."""
        return self._metrics("before_update", lambda session: session.before_update(update))

    def after_update(self, update: PendingUpdate) -> dict[str, float]:
        """The same, once the update has been made. Raises RunError for a broken detector."""
        return self._metrics("after_update", lambda session: session.after_update(update))

    def judge(self, step: int, metrics: Mapping[str, float]) -> list[Verdict]:
        """What every detector that has something to say says of this step. Raises RunError for a broken detector."""
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
        states = {}
        for name, session in list(self.sessions.items()):
            with self._guarded(name, "state_dict"):
                states[name] = session.state_dict()
                to_json(states[name])  # as a checkpoint keeps it
        return states

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, session in list(self.sessions.items()):
            if name in state:
                with self._guarded(name, "load_state_dict"):
                    session.load_state_dict(state[name])

    def _metrics(
        self, method: str, call: Callable[[CollapseSession], Any], given: Mapping[str, Tensor] | None = None
    ) -> dict[str, float]:
        """What the sessions measure, with what they were ``given`` and must not change."""
        metrics: dict[str, float] = {}
        for name, session in list(self.sessions.items()):
            with self._guarded(name, method):
                before = contents(given or {})
                own = call(session)
                if changed := changes(given or {}, before):
                    raise ValueError(f"it changed {changed[0]} in place, which others still need: clone it first")
                metrics |= _checked(own)
        return metrics

    @contextmanager
    def _guarded(self, name: str, method: str) -> Iterator[None]:
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
    """Finite numbers under names of a detector's own. Raises ValueError for anything else."""
    if not isinstance(metrics, Mapping):
        raise ValueError(f"it gave a {type(metrics).__name__}, not a mapping of metrics")
    for name, value in metrics.items():
        if not isinstance(name, str) or name == "step" or name.partition("/")[0] in RESERVED:
            raise ValueError(f"the name {name!r} is not a detector's to give: write collapse/...")
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
    return dict(metrics)
