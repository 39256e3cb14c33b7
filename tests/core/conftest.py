"""Distributions that announce plugins, made up for a test."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
from uncollapse.core import plugins
from uncollapse.core.registry import Registry

GOOD = """
    from uncollapse import hookimpl
    from uncollapse.core.components import RolloutFilter

    class Nothing(RolloutFilter):
        def select(self, scores_P):
            return scores_P < 0

    @hookimpl
    def register_rollout_filters(register):
        register("{name}", Nothing, summary="keep nothing")
"""


class FakeSite:
    """A directory on the path, into which a test installs distributions."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def module(self, name: str, source: str) -> Path:
        path = self.root.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return path

    def distribution(self, name: str, version: str, **entries: str) -> None:
        info = self.root / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{entry} = {target}" for entry, target in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[uncollapse]", *lines, ""]))

    @staticmethod
    def good(name: str) -> str:
        """The source of a plugin that registers the rollout filter ``name``, and nothing else."""
        return textwrap.dedent(GOOD).format(name=name)

    def install(self, name: str, source: str | None = None, version: str = "1.0") -> Path:
        """A distribution ``name-dist`` with one plugin ``name`` in the module ``name``; by default a good one."""
        self.distribution(f"{name}-dist", version, **{name: name})
        return self.module(name, self.good(name) if source is None else source)

    def registry(self) -> Registry:
        return Registry(plugins.discover())

    def plugin(self, name: str) -> plugins.Plugin:
        """The plugin after its names were registered."""
        (plugin,) = (plugin for plugin in self.registry().plugins if plugin.name == name)
        return plugin

    def error(self, name: str) -> Exception:
        """The one thing that is wrong with a plugin."""
        (error,) = self.plugin(name).errors
        return error


@pytest.fixture
def site(tmp_path, monkeypatch):
    for name in ("UNCOLLAPSE_PLUGINS", "UNCOLLAPSE_DISABLE_PLUGINS", "UNCOLLAPSE_TRACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield FakeSite(tmp_path)
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
