"""Hooks are called one implementation at a time, so that one that raises keeps no other from being called.

``UNCOLLAPSE_TRACE=1`` prints every call.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pluggy

from . import hookspecs
from .errors import RequestError, RunError, UncollapseError
from .plugins import Plugin, check_hooks
from .surroundings import restored


def manager(plugins: Iterable[Plugin], others: Iterable[object] = ()) -> pluggy.PluginManager:
    """A pluggy manager with the sound plugins, and with ``others`` (objects with hooks) after them.

    Raises:
        RequestError: one of ``others`` marks a function that is no hook, or is there twice.
    """
    result = pluggy.PluginManager(hookspecs.PROJECT)
    result.add_hookspecs(hookspecs)
    for plugin in plugins:
        if plugin.hooks is not None and not result.is_registered(plugin.hooks):
            result.register(plugin.hooks, str(plugin))
    for number, other in enumerate(others):
        owner = f"{type(other).__module__}.{type(other).__qualname__}"
        for error in check_hooks(other, owner):
            raise error
        if result.is_registered(other):
            raise RequestError(f"{owner} is there twice", fix="name each tracker once")
        result.register(other, f"{owner} (tracker {number + 1})")
    return result


Forgive = Callable[[object, str, BaseException], bool]
"""A function of a plugin, a hook and what it raised: whether the caller can do without it."""


def call(
    manager: pluggy.PluginManager, hook: str, *, forgive: Forgive = lambda *_: False, **arguments: object
) -> list[Any]:
    """Call every implementation of a hook, the last registered first, and return what they returned.

    One that raises does not keep the others from being called. Each is given a copy of a mapping: what it changes there
    is neither in the record nor in what the others are given.

    Raises:
        RunError: naming the first plugin that raised. An :class:`UncollapseError` goes through as it is.
    """
    results, failures = [], []
    for implementation in reversed(getattr(manager.hook, hook).get_hookimpls()):
        try:
            with restored() as changes:
                results.append(call_one(implementation, **_copied(arguments)))
            if changes:
                raise ValueError(f"it changed {', '.join(changes)} for the whole process, and must not")
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # a hook that calls sys.exit does not end the run in its own way
            if forgive(implementation.plugin, hook, error):
                continue
            if isinstance(error, UncollapseError):
                failures.append(error)
                continue
            frame = traceback.extract_tb(error.__traceback__)[-1]
            failure = RunError(
                f"{implementation.plugin_name} failed in {hook}: {type(error).__name__}: {error}",
                f"{frame.filename}:{frame.lineno}",
                "mend the plugin, or run without it",
            )
            failure.__cause__ = error
            failures.append(failure)
    if failures:
        for other in failures[1:]:
            failures[0].add_note(str(other))
        raise failures[0]
    return results


def _copied(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in arguments.items()}


def call_one(implementation: pluggy.HookImpl, **arguments: object) -> Any:
    """Call one hook implementation with the arguments that it asks for, and trace it if that is wanted."""
    given = [arguments[name] for name in implementation.argnames]
    if not tracing():
        return implementation.function(*given)
    shown = ", ".join(f"{name}={value!r}" for name, value in zip(implementation.argnames, given, strict=True))
    line = f"uncollapse: {implementation.plugin_name}: {implementation.function.__name__}({shown})"
    try:
        result = implementation.function(*given)
    except BaseException as error:
        sys.stderr.write(f"{line} raised {error!r}\n")
        raise
    sys.stderr.write(f"{line} -> {result!r}\n")
    return result


def tracing() -> bool:
    """Whether ``UNCOLLAPSE_TRACE`` asks for hook calls and tracebacks."""
    return os.environ.get("UNCOLLAPSE_TRACE", "") not in ("", "0")
