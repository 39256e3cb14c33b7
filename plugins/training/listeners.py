"""The listeners of a run, its trackers and the runtime hooks of plugins, are called on rank 0 while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ...core.calling import call
from ...core.compose.experiment import Experiment
from ...core.console.streams import say
from ...core.errors import RequestError
from ...core.registry import registry
from ...core.runs.directory import RunDirectory

RECORD = "jsonl"
"""Name of the tracker that writes the run's own record; what it cannot write is lost."""


class Listeners:
    """Listeners are the trackers of a run and the plugins with runtime hooks.

    A tracker that raises costs nothing but its own copy of the metrics: a warning is given once, and the tracker is
    called again at the next step. With ``strict_trackers`` it ends the run, as the tracker ``jsonl`` and the hooks of
    plugins do.

    Args:
        callbacks: objects with runtime hooks; what they raise ends the run.

    Raises:
        RequestError: a callback has a misspelt hook, or none.
    """

    def __init__(self, run: RunDirectory, experiment: Experiment, callbacks: Sequence[Any] = ()) -> None:
        named = [(tracker.name, tracker.component) for tracker in experiment.trackers]
        if all(name != RECORD for name, _ in named):
            named.insert(0, (RECORD, registry().create("tracker", RECORD)))
        self._run = run
        self._strict = experiment.strict_trackers
        self.failures: dict[str, int] = {}
        """Number of failures by tracker."""
        self._sessions: list[tuple[str, Any]] = []
        for name, component in named:
            try:
                self._sessions.append((name, component.start(run)))
            except Exception as error:
                if not self._forgiven(name, "start", error):
                    raise
        self._manager = registry().run_manager([*(session for _, session in self._sessions), *callbacks])

    def call(self, hook: str, **arguments: Any) -> None:
        """Call a hook of every listener. Raises RunError if a plugin raised, or a tracker that is not forgiven."""
        call(self._manager, hook, forgive=self._forgive, run=self._run, **arguments)

    def _forgive(self, session: Any, hook: str, error: BaseException) -> bool:
        """Say whether the run goes on after an error of this listener."""
        name = next((name for name, other in self._sessions if other is session), None)
        return name is not None and self._forgiven(name, hook, error)

    def _forgiven(self, name: str, hook: str, error: BaseException) -> bool:
        """Say whether the run goes on after an error of this tracker; count the error and warn of the first one."""
        # a wrong request stays wrong at the next step
        if self._strict or name == RECORD or isinstance(error, RequestError):
            return False
        self.failures[name] = self.failures.get(name, 0) + 1
        if self.failures[name] == 1:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            text = f"warning: the tracker {name} failed in {hook}: {reason}"
            text += "; the run goes on, and metrics.jsonl has every step (strict_trackers: true would end it)"
            say(text)
            with suppress(OSError):
                self._run.log(text)
        return True

    def sum_up(self) -> None:
        """Say in the log how often trackers have failed."""
        for name, count in self.failures.items():
            if count > 1:
                with suppress(OSError):
                    self._run.log(f"the tracker {name} failed {count} times")
