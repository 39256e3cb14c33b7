"""Laws of dialects, tried on the points of the sweep ``demo``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from ...core.compose.blame import confined
from ...core.compose.experiment import Named
from ...plugins.sweeps.sweep import load
from ..problems import laws, require


def _translates(named: Named) -> None:
    """A dialect gives keys and values as texts, and words of a command line, of every point."""
    sweep = load("demo")
    with TemporaryDirectory() as folder:
        points = sweep.prepared(Path(folder))
    words = set()
    for point in points:
        with confined(named, "keys"):
            keys = named.component.keys(point, sweep)
        texts = isinstance(keys, Mapping) and all(isinstance(each, str) for pair in keys.items() for each in pair)
        require(named, "keys", texts, "gave something else than a mapping of texts to texts")
        with confined(named, "words"):
            said = named.component.words(keys)
        require(named, "words", isinstance(said, str), f"gave {type(said).__name__}, not a text")
        words.add(said)
    require(named, "words", len(words) == len(points), "gave the same words for points that differ")


LAWS = {"dialect": laws(_translates)}
