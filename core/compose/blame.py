"""Exceptions and wrong values of a component are told with its kind, name, plugin and file."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import RunError, UncollapseError
from ..registry import registry
from ..surroundings import restored
from .named import Named

_PACKAGE = __name__.partition(".")[0]


def wrong(named: Named, method: str, what: str) -> RunError:
    """The error for a component that handed over what its contract does not allow."""
    if not registry().has(named.kind, named.name):  # an instance that a program has made
        cls = type(named.component)
        return RunError(f"{named.described}: {method} {what}", f"{cls.__module__}:{cls.__qualname__}")
    entry = registry().entry(named.kind, named.name)
    where = f"{entry.target_string} ({entry.plugin.source or entry.plugin.module})"
    return RunError(f"{named.described}: {method} {what}", where, f"uncollapse show {named.kind} {named.name}")


def require_session(named: Named, method: str, made: object, base: type) -> None:
    """Raises RunError where what a component made does not derive from the base class of its contract."""
    if not isinstance(made, base):
        what = f"gave a {type(made).__name__}: write class {type(made).__name__}(uncollapse.api.{base.__name__})"
        raise wrong(named, method, what)


@contextmanager
def blaming(named: Named, method: str) -> Iterator[None]:
    """Turn what a component raises in ``method`` into an error that names it.

    Errors of ours go through as they are, and so do a Ctrl-C and a lack of memory, which is the run's concern.

    Raises:
        RunError: the component raised anything else, a call of ``sys.exit`` included.
    """
    try:
        yield
    except BaseException as error:
        if not is_foreign(error):
            raise
        raise RunError(
            f"{named.described} failed in {method}: {told(error)}",
            _position(error, named),
            "mend the plugin, or choose another name",
        ) from error


@contextmanager
def confined(named: Named, method: str) -> Iterator[None]:
    """Blame a component that computes, and see that it leaves the process as it found it (:mod:`.surroundings`).

    Raises:
        RunError: as by :func:`blaming`; or the component changed what the whole process computes with. It is put back.
    """
    with blaming(named, method), restored() as changes:
        yield
    if changes:
        raise wrong(named, method, f"changed {', '.join(changes)} for the whole process, and must not")


def is_foreign(error: BaseException) -> bool:
    """Whether an exception is the affair of the code that raised it: no error of ours, Ctrl-C or lack of memory."""
    signal = not isinstance(error, Exception) and type(error).__module__.partition(".")[0] == _PACKAGE
    ours = isinstance(error, UncollapseError) or signal  # such as a time limit that ends a call from outside
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's own
    return not (ours or out_of_memory or isinstance(error, KeyboardInterrupt))


def told(error: BaseException) -> str:
    """The type and the text of an exception are told, even of one that fails to say what it is."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__}, which cannot be printed"


def _position(error: BaseException, named: Named) -> str:
    """The last line of the component's own file that the exception came through, else where it was raised."""
    source = None
    if registry().has(named.kind, named.name):
        source = registry().entry(named.kind, named.name).plugin.source
    frames = traceback.extract_tb(error.__traceback__)
    own_frames = [frame for frame in frames if source is not None and frame.filename == str(source)]
    frame = (own_frames or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"
