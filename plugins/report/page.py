"""One HTML page of cards, tables, pictures and texts: no scripts, nothing to load.

The parts of a page are plain text; ``report.html``, the template of all pages, escapes every one of them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs

from ...core.errors import MissingExtraError
from .plots import Plot

NUMBERS = re.compile(r"(?:[−–+\d.:e±()% /→-]|nan|inf|days?,)*")
"""A cell of a column that is aligned at the right."""
WRAPPED = {"left out", "why", "evidence", "runs", "explanation", "estimand", "reason", "error"}
"""Columns of sentences."""


@attrs.frozen
class Card:
    """A finding at the top."""

    what: str
    figure: str
    text: str = ""
    outcome: str = ""
    """``higher`` for good news; ``lower``, ``failed`` or ``damaged`` for bad."""


@attrs.frozen
class Chip:
    """A cell in the colour of an outcome, such as ``success``, ``higher`` or ``failed``."""

    text: str
    outcome: str


@attrs.frozen
class Interval:
    """A cell with a picture: a value, and a reach to either side of it, in pixels of a scale that all rows share."""

    value: float
    x: float
    reach: float
    colour: str


Cell = str | Chip | Interval


@attrs.frozen
class Episode:
    """One episode: facts, (who, text) of its turns, and how many characters were left out."""

    facts: str
    turns: Sequence[tuple[str, str]]
    left_out: int


@attrs.frozen
class Fold:
    """What is shown when its title is opened: a text, a damage or episodes."""

    title: str
    note: str = ""
    text: str = ""
    damage: str = ""
    episodes: Sequence[Episode] = ()


@attrs.frozen
class Section:
    """A heading with whatever of these there is; one with none of them is not shown."""

    title: str
    note: str = ""
    rows: Sequence[Mapping[str, Cell]] = ()
    """Lines of a table: column -> cell."""
    pictures: Sequence[Plot] = ()
    lines: Sequence[str] = ()
    text: str = ""
    folds: Sequence[Fold] = ()

    @property
    def columns(self) -> dict[str, str]:
        """Column -> class. Columns without a cell are left out, those of nothing but numbers are aligned at the right.

        Of a column of sentences the lines are broken.
        """
        cells: dict[str, list[Cell]] = {}
        for row in self.rows:
            for column, cell in row.items():
                if cell:
                    cells.setdefault(column, []).append(cell)
        return {column: _class(column, found) for column, found in cells.items()}

    def __bool__(self) -> bool:
        return bool(self.columns or self.pictures or self.lines or self.text or self.folds)


def render(title: str, subtitle: str, cards: Sequence[Card], sections: Sequence[Section]) -> str:
    """The page as text. Raises MissingExtraError without jinja2."""
    return _template().render(title=title, subtitle=subtitle, cards=cards, sections=[s for s in sections if s])


def require_libraries() -> None:
    """Raises MissingExtraError if a library of the pages is not installed."""
    for name in ("matplotlib", "jinja2"):
        try:
            import_module(name)
        except ImportError as error:
            what = f"the plots and the page of a report need {name}"
            raise MissingExtraError(what, str(error), "pip install 'uncollapse[train]'") from error


@cache
def _template() -> Any:
    require_libraries()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    files = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=files, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    return environment.get_template("report.html")


def _class(column: str, cells: Sequence[Cell]) -> str:
    if all(isinstance(cell, str) and NUMBERS.fullmatch(cell) for cell in cells):
        return "num"
    return "wrap" if column in WRAPPED else ""
