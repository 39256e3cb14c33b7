"""A report is one HTML page of cards, tables, pictures and texts, without scripts or anything to load.

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

UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""Pattern of what a page cannot hold, or would not show: control characters, those that turn the direction of a text,
and halves of surrogate pairs."""
NUMBERS = re.compile(r"(?:[<−–+\d.:e±()% /→-]|nan|inf|days?,)*")
"""Pattern of the cells of a column that is aligned at the right."""
WRAPPED = {
    "claim",
    "left out",
    "why",
    "evidence",
    "runs",
    "explanation",
    "estimand",
    "reason",
    "error",
    "source",
    "note",
}
"""Names of columns that hold sentences."""


@attrs.frozen
class Card:
    """A card is a finding at the top."""

    what: str
    figure: str
    text: str = ""
    outcome: str = ""
    """Class in the page: ``higher`` for good news; ``lower``, ``failed`` or ``damaged`` for bad."""


@attrs.frozen
class Chip:
    """A chip is a cell in the colour of an outcome, such as ``success``, ``higher`` or ``failed``."""

    text: str
    outcome: str


@attrs.frozen
class Interval:
    """An interval is a cell with a picture: a value, and a reach to either side, in pixels of a scale of all rows."""

    value: float
    x: float
    reach: float
    colour: str


Cell = str | Chip | Interval


@attrs.frozen
class Bar:
    """A bar is a line of a chart from -1 to 1: a value with its interval, and a second value."""

    name: str
    value: float | None
    text: str
    """What is written beside it."""
    low: float | None = None
    high: float | None = None
    second: float | None = None
    outcome: str = ""
    """Class in the page: ``higher``, ``lower`` or none."""

    @staticmethod
    def at(value: float) -> str:
        """Return the place of a value on the line, in percent of its length."""
        return f"{50 * (value + 1):.2f}"

    @property
    def width(self) -> str:
        """Length of the interval, in percent of the line."""
        return f"{50 * ((self.high or 0.0) - (self.low or 0.0)):.2f}"


@attrs.frozen
class Message:
    """A message is a part of an episode."""

    who: str
    """Class in the page: ``system``, ``user``, ``assistant``, ``call``, ``result``, ``environment`` or ``sampled``."""
    text: str
    note: str = ""
    """The words beside ``who``."""
    chips: Sequence[Chip] = ()
    outcome: str = ""
    """Second class in the page: ``failed``, or none."""
    rest: str = ""
    """What follows the text, and is shown when it is unfolded."""
    folded: bool = False
    """Whether all of it is shown when it is unfolded."""
    cut: bool = False
    """Whether the end of the text is left out."""
    keep: bool = False
    """Whether it is shown without a text."""


@attrs.frozen
class Episode:
    """An episode is shown by facts, chips, its messages, and the number of characters that were left out."""

    facts: str
    chips: Sequence[Chip]
    messages: Sequence[Message]
    left_out: int


@attrs.frozen
class Fold:
    """A fold shows a text, a damage or episodes when its title is opened."""

    title: str
    note: str = ""
    text: str = ""
    damage: str = ""
    episodes: Sequence[Episode] = ()
    is_open: bool = False
    """Whether it is open at first."""


@attrs.frozen
class Versus:
    """Two episodes side by side, each under the name of its run; one of them may be absent."""

    title: str
    names: tuple[str, str]
    episodes: tuple[Episode | None, Episode | None]


@attrs.frozen
class Section:
    """A section is a heading with some of these parts; one that has none of them is not shown."""

    title: str
    note: str = ""
    rows: Sequence[Mapping[str, Cell]] = ()
    """Lines of a table: column -> cell."""
    pictures: Sequence[Plot] = ()
    lines: Sequence[str] = ()
    text: str = ""
    folds: Sequence[Fold] = ()
    chart: Sequence[Bar] = ()
    legend: str = ""
    """What the marks of the chart are."""
    pairs: Sequence[Versus] = ()

    @property
    def columns(self) -> dict[str, str]:
        """Classes of the columns; a column without a cell is left out.

        Columns of nothing but numbers are aligned at the right, and columns of sentences break their lines.
        """
        cells: dict[str, list[Cell]] = {}
        for row in self.rows:
            for column, cell in row.items():
                if cell:
                    cells.setdefault(column, []).append(cell)
        return {column: _class(column, filled) for column, filled in cells.items()}

    def __bool__(self) -> bool:
        return bool(self.columns or self.chart or self.pictures or self.lines or self.text or self.folds or self.pairs)


def render(title: str, subtitle: str, cards: Sequence[Card], sections: Sequence[Section]) -> str:
    """Return the page as text. Raises MissingExtraError without jinja2."""
    return _template().render(title=title, subtitle=subtitle, cards=cards, sections=[s for s in sections if s])


def visible(text: str) -> str:
    """Return the text with escapes for characters that would not be seen; tabs and ends of lines stay."""
    return UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def require_libraries() -> None:
    """Raise MissingExtraError if a library of the pages is not installed."""
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
        loader=files,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # parts that are HTML are no plain str
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    return environment.get_template("report.html")


def _class(column: str, cells: Sequence[Cell]) -> str:
    if all(isinstance(cell, str) and NUMBERS.fullmatch(cell) for cell in cells):
        return "num"
    return "wrap" if column in WRAPPED else ""
