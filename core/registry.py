"""The registry finds a component by its kind and its name, and knows who registered it.

:func:`registry` is the one of this process. Building it loads the plugins; listing what it holds imports no component;
:meth:`Registry.resolve`, :meth:`Registry.describe` and :meth:`Registry.create` import the one that they are asked for.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from . import plugins as loading
from .calling import call_one, manager
from .entry import Entry, check_class, check_loaded, check_parameters, help_of, load, mapping_of
from .errors import MissingExtraError, RequestError, UncollapseError, nearest
from .files import file_sha256
from .imports import import_alone
from .kinds import KINDS, TAKEN
from .paths import expanded
from .plugins import Plugin, PluginLoadError, SignatureError, import_failure
from .targets import Target, check_target, file_of
from .terminal import escaped

if TYPE_CHECKING:
    from .describe import Description

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.+/-]*")
"""What a name may look like: it must be readable in ``name(positional, key=value)``."""


class DuplicateNameError(RequestError):
    """A name or an alias is registered a second time. The first registration stays; nothing is ever overridden."""


class UnknownNameError(RequestError):
    """No component of that kind has that name, or there is no such kind."""


class Registry:
    """The names that a list of plugins registers."""

    def __init__(self, plugins: Iterable[Plugin] = ()) -> None:
        self.plugins: list[Plugin] = []
        self.trusts_runs = False
        """Whether plugin files that run directories name may be executed (``--trust``)."""
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}  # by every spelling
        self._resolved: dict[Entry, Any] = {}
        self._signatures: dict[Entry, inspect.Signature] = {}
        for plugin in plugins:
            self._add(plugin)

    # --- listing: imports nothing ---

    def kinds(self) -> list[str]:
        """The kinds, in the order of the hook specifications."""
        return list(self._entries)

    def names(self, kind: str) -> list[str]:
        """The names of a kind, sorted, without aliases."""
        return [entry.name for entry in self.entries(kind)]

    def entries(self, kind: str) -> list[Entry]:
        """The entries of a kind, sorted by name."""
        return sorted(set(self._spellings(kind).values()), key=lambda entry: entry.name)

    def has(self, kind: str, name: str) -> bool:
        """Whether there is such a name or alias."""
        return name in self._spellings(kind)

    def entry(self, kind: str, name: str) -> Entry:
        """The entry of a name or alias. Raises UnknownNameError."""
        spellings = self._spellings(kind)
        if name in spellings:
            return spellings[name]
        raise UnknownNameError(
            f"there is no {kind} {name!r}", self.unusable(), _choices(name, spellings, f"{kind} names")
        )

    def files(self) -> tuple[str, ...]:
        """The paths of the plugin files that were loaded, in order."""
        return tuple(plugin.module for plugin in self.plugins if not plugin.distribution)

    # --- using: imports what is named ---

    def resolve(self, kind: str, name: str, /, **options: object) -> Any:
        """The target itself: a component class, or a function that makes one; of an experiment or a sweep, a mapping.

        ``options`` are for experiments and sweeps that have some; the parameters of their :meth:`target`.

        Raises:
            UnknownNameError: no such name.
            MissingExtraError: it needs a library of an extra that is not installed.
            PluginLoadError: it cannot be imported.
            SignatureError: it does not derive from the base class of its kind, or lacks a method of it.
            RequestError: an option is unknown or refused.
        """
        entry = self.entry(kind, name)
        if entry in self._resolved:
            return self._resolved[entry]
        target = load(entry)
        if KINDS[kind].is_mapping:
            if options:
                check_parameters(entry, target, (), options)
            return mapping_of(entry, target, options)
        check_loaded(entry, target)
        self._resolved[entry] = target
        return target

    def signature(self, kind: str, name: str) -> inspect.Signature:
        """The parameters of a component, or the options of an experiment or a sweep.

        Raises what :meth:`resolve` raises; SignatureError where a target has none that can be read.
        """
        entry = self.entry(kind, name)
        if entry not in self._signatures:
            try:
                self._signatures[entry] = inspect.signature(self.resolve(kind, name))
            except (ValueError, TypeError) as error:
                what = f"the parameters of {entry} cannot be read: {error}"
                raise SignatureError(what, str(entry.plugin), "mend its plugin") from error
        return self._signatures[entry]

    def create(self, kind: str, name: str, *args: object, **params: object) -> Any:
        """A component with these parameters; positional ones fill the first fields.

        Raises RequestError for a parameter that is unknown, missing, given twice or refused, and as :meth:`resolve`.
        """
        entry = self.entry(kind, name)
        target = self.resolve(kind, name)
        if not KINDS[kind].is_component:
            raise RequestError(f"{entry} is not a component", fix=f"uncollapse show {kind} {name}")
        check_parameters(entry, target, args, params)
        try:
            component = target(*args, **params)
        except (ValueError, TypeError) as error:
            # attrs validators append the field, the options and the value to their message
            raise RequestError(f"{entry}: {error.args[0] if error.args else error}", fix=help_of(entry)) from error
        check_class(entry, type(component))
        return component

    def target(self, kind: str, name: str) -> Any:
        """What was registered, imported if it was named by a string. Raises what :meth:`resolve` raises."""
        return load(self.entry(kind, name))

    def describe(self, kind: str, name: str) -> Description:
        """Tell everything about a name, as a :class:`~.describe.Description`. Raises what :meth:`resolve` raises."""
        from . import describe

        entry = self.entry(kind, name)
        target = self.resolve(kind, name)
        if KINDS[kind].is_mapping:
            source = file_of(entry.target) if isinstance(entry.target, str) else describe.source_file(entry.target)
            is_yaml = source is not None and source.suffix in (".yaml", ".yml")
            raw = load(entry)
            doc = source.read_text("utf-8") if source and is_yaml else inspect.getdoc(raw) or ""
            parameters = describe.parameters(raw) if callable(raw) else ()
        else:
            source, doc, parameters = describe.command(target) if kind == "command" else describe.component(target)
        return describe.Description(
            kind=kind,
            name=entry.name,
            aliases=entry.aliases,
            summary=entry.summary,
            target=entry.target_string,
            plugin=entry.plugin.name,
            distribution=entry.distribution,
            version=entry.version,
            module=entry.target_string.partition(":")[0],
            source=str(source or ""),
            source_sha256=file_sha256(source),
            doc=doc,
            parameters=parameters,
            needs=describe.needs(target),
            facts=describe.facts(kind, target),
        )

    def check(self) -> list[tuple[Entry, UncollapseError]]:
        """Import every target and return those that failed; other than missing extras, that breaks their plugin."""
        failed: list[tuple[Entry, UncollapseError]] = []
        for kind in self.kinds():
            for entry in self.entries(kind):
                try:
                    self.resolve(kind, entry.name)
                except UncollapseError as error:
                    failed.append((entry, error))
                    if not isinstance(error, MissingExtraError):
                        entry.plugin.errors.append(error)
        return failed

    def run_manager(self, sessions: Iterable[object] = ()) -> pluggy.PluginManager:
        """The plugin manager of one run: all sound plugins, and the sessions of its trackers (objects with hooks).

        Use :func:`~.calling.call` on it. Raises RequestError if a session has a misspelt hook, or no hook.
        """
        return manager(self.plugins, sessions)

    # --- filling ---

    def load_file(self, path: str | Path) -> Plugin:
        """Load a plugin file and add its names; once, however often it is asked for.

        Raises RequestError if anything is wrong with it; then none of its names stay.
        """
        try:
            resolved = os.path.realpath(expanded(path))
        except RequestError as error:
            fix = "give the path of a Python file"
            raise PluginLoadError(f"there is no such plugin file: {error.what}", fix=fix) from error
        for plugin in self.plugins:
            if plugin.module == resolved:
                return plugin
        plugin = loading.load_file(path)
        self._add(plugin)
        if plugin.errors:
            self.plugins.remove(plugin)
            for spellings in self._entries.values():
                for spelling in [spelling for spelling, entry in spellings.items() if entry.plugin is plugin]:
                    del spellings[spelling]
            raise plugin.errors[0]
        return plugin

    def _add(self, plugin: Plugin) -> None:
        """Call each registration hook of a plugin alone; what goes wrong stays with the plugin."""
        self.plugins.append(plugin)
        if plugin.hooks is None:
            return
        hooks = manager([plugin]).hook
        for kind, hook in ((kind.name, kind.hook) for kind in KINDS.values()):
            for implementation in getattr(hooks, hook).get_hookimpls():
                register = functools.partial(self._register, plugin, kind)
                done = import_alone(functools.partial(call_one, implementation, register=register))
                plugin.seconds += done.seconds
                if isinstance(done.error, UncollapseError):
                    plugin.errors.append(done.error)
                elif done.error is not None:
                    plugin.errors.append(import_failure(plugin, f"{plugin} failed in {hook}", done.error))

    def _register(
        self, plugin: Plugin, kind: str, name: str, target: Target, *, summary: str = "", aliases: tuple[str, ...] = ()
    ) -> None:
        """Add a name, or note what is wrong with it and go on: the other names of the plugin are added all the same."""
        entry = Entry(kind, name, target, escaped(" ".join(str(summary).split())), tuple(aliases), plugin)
        spellings = self._entries[kind]
        for spelling in (name, *entry.aliases):
            if not isinstance(spelling, str) or not NAME.fullmatch(spelling):
                what = f"{spelling!r} cannot be the name of a {kind}"
                plugin.errors.append(
                    SignatureError(what, str(plugin), "start with a letter; use letters, digits and _ . + / -")
                )
                return
            if spelling in TAKEN.get(kind, ()):
                what = f"{spelling!r} is a {kind} of uncollapse itself"
                plugin.errors.append(DuplicateNameError(what, str(plugin), "give it another name"))
                return
            if spelling in spellings:
                what = f"{kind} {spelling!r} is registered twice"
                where = f"first by {spellings[spelling].plugin}, again by {plugin}; the first stays"
                fix = f"give one of them another name, or block a plugin: UNCOLLAPSE_DISABLE_PLUGINS={plugin.name}"
                plugin.errors.append(DuplicateNameError(what, where, fix))
                return
        if problem := check_target(kind, target):
            fix = "give register a class, or 'module:attribute' of a module that exists"
            plugin.errors.append(PluginLoadError(f"{entry}: {problem}", str(plugin), fix))
            return
        spellings.update(dict.fromkeys((name, *entry.aliases), entry))

    def _spellings(self, kind: str) -> dict[str, Entry]:
        if kind not in self._entries:
            raise UnknownNameError(f"there is no kind {kind!r}", fix=_choices(kind, self._entries, "kinds"))
        return self._entries[kind]

    def unusable(self) -> str:
        """The plugins that an unknown name might have come from."""
        names = [f"{plugin.name} ({plugin.status})" for plugin in self.plugins if plugin.status != "loaded"]
        return f"not looked for in {', '.join(names)}: see uncollapse plugins" if names else ""


def _choices(word: str, words: Iterable[str], what: str) -> str:
    advice = nearest(word, words)
    return f"{advice} {what}: {', '.join(sorted(words))}" if advice.startswith("did you mean") else advice


@functools.cache
def registry() -> Registry:
    """The registry of this process. Raises RequestError if ``UNCOLLAPSE_PLUGINS`` names what is not installed."""
    return Registry(loading.discover())
