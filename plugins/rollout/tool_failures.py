"""A tool that fails is told to the model and counted; one that never works ends the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...core.components.tools import text_of
from ...core.compose.blame import is_foreign, told
from ...core.compose.named import Named
from ...core.console.streams import say
from ...core.errors import RunError

MOST = 1000
"""The number of calls of one tool that may fail one after another, without any that works."""


class ToolFailedError(RunError):
    """A call has failed. The run goes on: ``what`` is told to the model."""


class Failures:
    """The calls of a component's tools that have failed since one worked."""

    def __init__(self, named: Named) -> None:
        self.named = named
        self._in_a_row: dict[str, int] = {}
        self._said: set[tuple[str, type]] = set()

    @contextmanager
    def counted(self, tool: str) -> Iterator[None]:
        """Turn what a call raises into a :class:`ToolFailedError`.

        A connection that is lost, our own errors, a call of ``sys.exit`` and a lack of memory are no matter of the
        call, and go through as they are. So does the last of :data:`MOST` failures one after another: then the tool is
        broken rather than badly called.
        """
        try:
            yield
        except Exception as error:
            failed = self._in_a_row[tool] = self._in_a_row.get(tool, 0) + 1
            if not is_foreign(error) or lost_connection(error) or failed >= MOST:
                raise
            self._say_once(tool, error)
            raise ToolFailedError(text_of(told(error))) from error
        else:
            self._in_a_row[tool] = 0

    def _say_once(self, tool: str, error: Exception) -> None:
        """Tell a person, who may know that this is a mistake in the tool; once for each type of error."""
        if (tool, type(error)) not in self._said:
            self._said.add((tool, type(error)))
            say(
                f"the tool {tool} of {self.named.described} failed: {told(error)}; the model is told so. This is said "
                "once; share_of_calls_failed counts how often it happens"
            )


def lost_connection(error: BaseException) -> bool:
    """Say whether an error is what Python raises for a server that is down or does not answer, or was led to by it."""
    if not isinstance(error, OSError):
        return False
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConnectionError | TimeoutError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None
