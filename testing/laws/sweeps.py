"""The laws of dialects are tried on the points of the sweep ``demo``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from ...core.compose.blame import confined
from ...core.compose.named import Named
from ...plugins.sweeps.sweep import load
from ..problems import laws, require


def _translates(named: Named) -> None:
    """A dialect gives keys and values as texts, and words of a command line, for every point."""
    sweep = load("demo")
    with TemporaryDirectory() as folder:
        points = sweep.prepared(Path(folder))
    words = set()
    for point in points:
        with confined(named, "keys"):
            keys = named.component.keys(point, sweep)
        texts = isinstance(keys, Mapping) and all(isinstance(text, str) for pair in keys.items() for text in pair)
        require(named, "keys", texts, "gave something else than a mapping of texts to texts")
        with confined(named, "words"):
            words_of_point = named.component.words(keys)
        is_text = isinstance(words_of_point, str)
        require(named, "words", is_text, f"gave {type(words_of_point).__name__}, not a text")
        words.add(words_of_point)
    require(named, "words", len(words) == len(points), "gave the same words for points that differ")


LAWS = {"dialect": laws(_translates)}
