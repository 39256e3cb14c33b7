"""Who is to blame: exceptions and wrong values of a component, told with its kind, name, plugin and file."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import RunError, UncollapseError
from .experiment import Named
from .registry import registry


def wrong(named: Named, method: str, what: str) -> RunError:
    """The error for a component that handed over what its contract does not allow."""
    entry = registry().entry(named.kind, named.name)
    where = f"{entry.target_string} ({entry.plugin.source or entry.plugin.module})"
    return RunError(f"{named.described}: {method} {what}", where, f"uncollapse show {named.kind} {named.name}")


@contextmanager
def blaming(named: Named, method: str) -> Iterator[None]:
    """Turn what a component raises in ``method`` into an error that names it.

    Errors of ours go through as they are, and so do a Ctrl-C and a lack of memory, which is the run's concern.

    Raises:
        RunError: the component raised anything else, a call of ``sys.exit`` included.
    """
    try:
        yield
    except (UncollapseError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which the core does not import
            raise
        raise RunError(
            f"{named.described} failed in {method}: {type(error).__name__}: {error}",
            _position(error, named),
            "mend the plugin, or choose another name",
        ) from error


def _position(error: BaseException, named: Named) -> str:
    """The last line of the component's own file that the exception came through, else where it was raised."""
    plugin = registry().entry(named.kind, named.name).plugin
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if plugin.source is not None and frame.filename == str(plugin.source)]
    frame = (own or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"
