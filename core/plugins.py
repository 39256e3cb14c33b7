"""Plugins are found, checked, loaded and blocked here, since pluggy's own loading stops at the first one that fails.

Its ``load_setuptools_entrypoints`` raises whatever an import raises, and its ``check_pending`` whatever is wrong with a
hook; the plugins after that one are not loaded. Then a broken plugin takes others down: no command runs, not even the
one that says which plugin it is. So pluggy marks hooks, parses the marks and keeps the implementations in their order,
while each plugin is imported and checked alone, here, and each implementation is called alone (:mod:`.calling`); what
goes wrong is kept on the :class:`Plugin` that caused it.

A plugin is announced by the entry-point group ``uncollapse`` (our own built-ins are, too) or asked for by file
(:func:`load_file`). One that was asked for by file must work: its failure is raised. ``UNCOLLAPSE_PLUGINS`` allows only
these beside our own, ``UNCOLLAPSE_DISABLE_PLUGINS`` blocks these: comma-separated entry-point or distribution names.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from importlib.metadata import EntryPoint
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pluggy

from . import hookspecs
from .announced import Announcement, announcements
from .errors import RequestError, UncollapseError, nearest
from .files import file_sha256
from .imports import import_alone, where_raised
from .paths import expanded
from .targets import locate, missing_extra

HOOKS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(spec).parameters)
    for name, spec in vars(hookspecs).items()
    if hasattr(spec, f"{hookspecs.PROJECT}_spec")
}
"""Arguments of each hook."""


class UnknownHookError(RequestError):
    """A function is marked as a hook and there is no such hook; or it has a hook's name and is not marked."""


class PluginLoadError(RequestError):
    """A plugin, or a module that it names, cannot be imported; or it raised while it registered its names."""


class SignatureError(RequestError):
    """A hook asks for arguments that it is not given, or a component is none of its kind."""


@attrs.define(eq=False)
class Plugin:
    """A plugin knows where it comes from, what became of it, and why."""

    name: str
    """Entry-point name, or the stem of its file."""
    module: str
    """The module it lives in (of a file plugin: the path)."""
    distribution: str = ""
    """The installed distribution that announces it; empty for a file."""
    version: str = ""
    source: Path | None = None
    """Its source file, where there is one."""
    blocked: str = ""
    """The environment variable that keeps it from loading."""
    seconds: float = 0.0
    """What importing it took, with all that it imports for the first time, and registering its names."""
    errors: list[UncollapseError] = attrs.field(factory=list)
    hooks: object = None
    """The module or object with its hook implementations, once it is loaded and found sound."""

    @property
    def status(self) -> str:
        """``loaded``, ``blocked`` or ``broken`` (names of a broken plugin that are sound can still be used)."""
        return "blocked" if self.blocked else "broken" if self.errors else "loaded"

    @property
    def source_sha256(self) -> str:
        """The hash of the source file; empty without one."""
        return file_sha256(self.source)

    def __str__(self) -> str:
        origin = f"{self.distribution} {self.version}".strip() or self.module
        return f"plugin {self.name!r} ({origin})"


# --- finding --------------------------------------------------------------------------------------------------------


def discover() -> list[Plugin]:
    """Import every announced plugin that is not blocked: our own first, then by distribution and name."""
    announced: list[tuple[Plugin, EntryPoint | None]] = [
        (_announced(announcement), announcement.entry) for announcement in announcements()
    ]
    announced.sort(key=lambda pair: (not _ours(pair[0]), _normal(pair[0].distribution), pair[0].name))
    plugins = [plugin for plugin, _ in announced]
    _block(plugins)
    for plugin, entry in announced:
        if not plugin.blocked and entry is not None:
            _load(plugin, entry.load)
    return plugins


def load_file(path: str | Path) -> Plugin:
    """The plugin in a Python file. Raises RequestError if it cannot be loaded: it was asked for by name."""
    path = Path(os.path.realpath(expanded(path)))
    plugin = Plugin(path.stem, str(path), source=path)
    if not path.is_file():
        raise PluginLoadError("there is no such plugin file", str(path), "give the path of a Python file")
    _load(plugin, lambda: _import_file(path))
    if plugin.errors:
        raise plugin.errors[0]
    return plugin


def _announced(announcement: Announcement) -> Plugin:
    entry, distribution = announcement.entry, announcement.distribution
    if entry is None:
        fix = "install a mended release of it, or uninstall it"
        error = PluginLoadError(f"{distribution} announces its plugins wrongly", announcement.problem, fix)
        return Plugin(distribution, "", distribution, announcement.version, errors=[error])
    module = entry.value.partition(":")[0].strip()
    spec = locate(module)
    source = Path(spec.origin) if spec and spec.has_location and spec.origin else None
    return Plugin(entry.name, module, distribution, announcement.version, source)


def _ours(plugin: Plugin) -> bool:
    return _normal(plugin.distribution) == hookspecs.PROJECT


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _block(plugins: list[Plugin]) -> None:
    """Mark what the environment keeps out. An allowed name that is not installed is an error, a blocked one is not."""
    allowed, blocked = (os.environ.get(name) for name in ("UNCOLLAPSE_PLUGINS", "UNCOLLAPSE_DISABLE_PLUGINS"))
    names = {id(plugin): {_normal(plugin.name), _normal(plugin.distribution)} for plugin in plugins}
    if allowed is not None:
        wanted = {_normal(item) for item in allowed.split(",") if item.strip()}
        installed = set().union(*names.values())
        for item in sorted(wanted - installed):
            raise RequestError(
                f"plugin {item!r} is not installed",
                "UNCOLLAPSE_PLUGINS",
                f"{nearest(item, installed)} (a plugin file is loaded with --plugin FILE.py, in Python with load_file)",
            )
        for plugin in plugins:
            if not _ours(plugin) and not names[id(plugin)] & wanted:
                plugin.blocked = "UNCOLLAPSE_PLUGINS"
    unwanted = {_normal(item) for item in (blocked or "").split(",") if item.strip()}
    for plugin in plugins:
        if names[id(plugin)] & unwanted:
            plugin.blocked = "UNCOLLAPSE_DISABLE_PLUGINS"


# --- loading and checking -------------------------------------------------------------------------------------------


def _load(plugin: Plugin, load: Callable[[], Any]) -> None:
    """Import and check one plugin; what is wrong with it is kept in ``plugin.errors``."""
    imported = import_alone(load)
    plugin.seconds += imported.seconds
    if imported.error is not None:
        plugin.errors.append(import_failure(plugin, f"{plugin} cannot be imported", imported.error))
        return
    hooks = imported.result
    plugin.errors.extend(check_hooks(hooks, str(plugin)))
    if not plugin.errors:
        plugin.hooks = hooks


def _import_file(path: Path) -> ModuleType:
    # The path is part of the name, so that files of the same name in two directories can both be loaded.
    name = f"uncollapse_plugin_{path.stem}_{sha256(bytes(path)).hexdigest()[:8]}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not a Python file (its name must end in .py)")
    module = module_from_spec(spec)
    sys.modules[name] = module  # pickle and inspect look the module of a class up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def import_failure(plugin: Plugin, what: str, error: BaseException) -> RequestError:
    """The error that says where in whose source an import (or a registration) failed."""
    if isinstance(error, ImportError) and (missing := missing_extra(error, what)):
        return missing
    where = where_raised(error) or str(plugin.source or plugin.module)
    fix = (
        f"mend it, or block the plugin: UNCOLLAPSE_DISABLE_PLUGINS={plugin.name}" if plugin.distribution else "mend it"
    )
    failure = PluginLoadError(f"{what}: {type(error).__name__}: {error}", where, fix)
    failure.__cause__ = error
    return failure


def check_hooks(hooks: object, owner: str) -> list[RequestError]:
    """What is wrong with the hook implementations of a module or object; they are not called."""
    marked = list(_marked(hooks))
    errors = [error for name, function, options in marked for error in _check_hook(owner, name, function, options)]
    for name in sorted(HOOKS.keys() - {name for name, _, _ in marked}):
        if callable(function := inspect.getattr_static(hooks, name, None)):
            what = f"{owner}: {name} is not marked as a hook"
            errors.append(UnknownHookError(what, _position(function), "put @hookimpl above it"))
    if not marked and not errors:
        errors.append(UnknownHookError(f"{owner} has no hooks", fix="put @hookimpl above its functions"))
    return errors


def _check_hook(
    owner: str, name: str, function: Callable[..., Any], options: Mapping[str, Any]
) -> Iterator[RequestError]:
    where = _position(function)
    if name not in HOOKS:
        yield UnknownHookError(f"{owner}: there is no hook {name!r}", where, nearest(name, HOOKS))
        return
    if options.get("wrapper") or options.get("hookwrapper"):
        what = f"{owner}: {name} cannot be a hook wrapper"
        yield SignatureError(what, where, "drop the option: every hook implementation is called alone")
    for argument in _arguments(function):
        if argument not in HOOKS[name]:
            what = f"{owner}: {name} is not given an argument {argument!r}"
            yield SignatureError(what, where, f"it may take: {', '.join(HOOKS[name])}")


_PARSER = pluggy.PluginManager(hookspecs.PROJECT)


def _marked(hooks: object) -> Iterator[tuple[str, Callable[..., Any], Mapping[str, Any]]]:
    for attribute in dir(hooks):
        if (options := _PARSER.parse_hookimpl_opts(hooks, attribute)) is not None:
            yield options.get("specname") or attribute, getattr(hooks, attribute), options


def _arguments(function: Callable[..., Any]) -> list[str]:
    """The arguments that pluggy will pass: positional ones without a default."""
    return [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
    ]


def _position(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""
