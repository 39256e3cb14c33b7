"""A registered name: who registered it, and its target, imported and checked when somebody asks for it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from .errors import RequestError, UncollapseError, nearest
from .imports import import_alone
from .kinds import KINDS
from .plugins import Plugin, SignatureError, import_failure
from .targets import Target, as_mapping, breach, load_target


@attrs.frozen(eq=False)
class Entry:
    """A registered name and who registered it."""

    kind: str
    name: str
    target: Target
    summary: str
    aliases: tuple[str, ...]
    plugin: Plugin

    @property
    def distribution(self) -> str:
        return self.plugin.distribution

    @property
    def version(self) -> str:
        return self.plugin.version

    @property
    def target_string(self) -> str:
        """``module:attribute`` (a mapping has none)."""
        if isinstance(self.target, str):
            return self.target
        name = getattr(self.target, "__qualname__", "")
        return f"{self.target.__module__}:{name}" if name else ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


def load(entry: Entry) -> Any:
    return _alone(entry, functools.partial(load_target, entry.target))


def mapping_of(
    entry: Entry, target: Callable[..., Any] | Mapping[str, Any], options: Mapping[str, object]
) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        try:
            return as_mapping(target, **options)
        except ValueError as error:
            if not options or isinstance(error, UncollapseError):
                raise
            raise RequestError(f"{entry}: {error.args[0] if error.args else error}", fix=help_of(entry)) from error

    mapping: dict[str, Any] = _alone(entry, make)
    return mapping


def _alone(entry: Entry, load: Callable[[], Any]) -> Any:
    """What ``load`` gives. Whatever else than an error of ours it raises becomes one that names the plugin."""
    done = import_alone(load)
    if isinstance(done.error, UncollapseError):
        raise done.error
    if done.error is not None:
        raise import_failure(entry.plugin, f"{entry} of {entry.plugin} cannot be loaded", done.error) from done.error
    return done.result


def check_loaded(entry: Entry, target: object) -> None:
    """Raises SignatureError if it cannot be what its kind asks for."""
    if inspect.isclass(target) and KINDS[entry.kind].is_component:
        check_class(entry, target)
    if entry.kind == "command" and not hasattr(target, "make_context"):
        what = f"{entry} is a {type(target).__name__}, not a click command"
        raise SignatureError(what, f"{entry.target_string} of {entry.plugin}", "put @click.command() above it")


def check_class(entry: Entry, cls: type) -> None:
    if wrong := breach(entry.kind, cls):
        what, fix = wrong
        raise SignatureError(f"{entry} {what}", f"{entry.target_string} of {entry.plugin}", fix)


def check_parameters(
    entry: Entry, target: Callable[..., Any], args: tuple[object, ...], params: Mapping[str, object]
) -> None:
    parameters = inspect.signature(target).parameters
    for name in params:
        if name not in parameters:
            raise RequestError(f"{entry} has no parameter {name!r}", fix=nearest(name, parameters))
    try:
        inspect.signature(target).bind(*args, **params)
    except TypeError as error:
        where = f"its parameters: {', '.join(parameters) or 'none'}"
        raise RequestError(f"{entry}: {error}", where, help_of(entry)) from error


def help_of(entry: Entry) -> str:
    return f"uncollapse show {entry.kind} {entry.name}"
