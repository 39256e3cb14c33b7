"""A package must register its names soundly, and without importing torch."""

from __future__ import annotations

import os
import subprocess
import sys

from ..core.plugins import Plugin
from ..core.registry import registry
from .check import entries_of
from .problems import Problem

_LOAD = "import sys; from uncollapse.core.registry import registry; registry(); print('torch' in sys.modules)"


def check_registration(distribution: str) -> list[Problem]:
    """List what is wrong with the plugins of a distribution themselves, before any component is used."""
    plugins = list({id(entry.plugin): entry.plugin for entry in entries_of(distribution)}.values())
    return [problem for plugin in plugins for problem in check_plugin(plugin)]


def check_plugin(plugin: Plugin) -> list[Problem]:
    """List the errors of one plugin, and whether loading it imports torch (for a plugin file only the errors)."""
    problems = [Problem.of(error) for error in plugin.errors]
    if plugin.distribution and not plugin.errors and _imports_torch(plugin):
        fix = 'name components as "module:Class", and import torch in their modules'
        problems.append(Problem(f"{plugin} imports torch when it registers its names", str(plugin.source or ""), fix))
    for kind in registry().kinds():
        for entry in registry().entries(kind):
            if entry.plugin is plugin and not entry.summary:
                fix = "give register a summary of one line"
                problems.append(Problem(f"{entry} of {plugin} has no summary", fix=fix))
    return problems


def _imports_torch(plugin: Plugin) -> bool:
    """Load this plugin and the built-in ones in a new process, and say whether that imports torch."""
    path = os.pathsep.join([*sys.path, *filter(None, [os.environ.get("PYTHONPATH", "")])])
    environment = {**os.environ, "UNCOLLAPSE_PLUGINS": plugin.name, "PYTHONPATH": path}
    environment.pop("UNCOLLAPSE_TRACE", None)
    done = subprocess.run([sys.executable, "-c", _LOAD], env=environment, capture_output=True, text=True, check=False)
    return done.stdout.strip() == "True"
