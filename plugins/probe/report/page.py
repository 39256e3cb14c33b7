"""The report of a probe as one HTML page: no scripts, nothing to load."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import attrs

from ...report import plots
from ...report.plots import Plot

FRAME = Path(plots.__file__).with_name("report.html")
CHIPS = {"passed": "success", "good": "success", "ok": "success", "success": "success"}
CHIPS |= {"failed": "failed", "error": "failed", "inverse_B": "failed", "poor": "failed", "convergence": "success"}
"""Cell -> the class of its chip."""
WRAPPED = {"explanation", "estimand", "reason", "error"}
"""Columns of sentences."""


@attrs.frozen
class Card:
    """A finding at the top."""

    what: str
    figure: str
    text: str = ""
    outcome: str = ""
    """``higher`` for good news, ``lower`` for bad."""


@attrs.frozen
class Section:
    """A heading with a note, rows of a table (column -> text), pictures, and lines of a list; each may be empty."""

    title: str
    note: str = ""
    rows: Sequence[Mapping[str, str]] = ()
    pictures: Sequence[Plot] = ()
    lines: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.rows or self.pictures or self.lines)


def page(title: str, subtitle: str, cards: Sequence[Card], sections: Sequence[Section]) -> str:
    """The page as text; empty sections are left out."""
    return Template(FRAME.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        findings="".join(map(_card, cards)),
        sections="\n".join(_section(section) for section in sections if section),
    )


def _card(card: Card) -> str:
    inside = f"<span class='soft'>{escape(card.what)}</span><b>{escape(card.figure)}</b>{escape(card.text)}"
    return f"<li class='{escape(card.outcome)}'>{inside}</li>"


def _section(section: Section) -> str:
    note = f"<p class='soft'>{escape(section.note)}</p>" if section.note else ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in section.lines)
    body = _table(section.rows) + (f"<ul>{lines}</ul>" if lines else "")
    if section.pictures:
        body += f"<div class='plots'>{''.join(map(_picture, section.pictures))}</div>"
    return f"<section><h2>{escape(section.title)}</h2>{note}{body}</section>"


def _picture(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode()
    wide = " class='wide'" if plot.wide else ""
    return f"<figure{wide}><img alt='{escape(plot.title)}' src='data:image/png;base64,{data}'></figure>"


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Columns without a cell are left out; those that hold nothing but numbers are aligned at the right."""
    columns = list(dict.fromkeys(column for row in rows for column, cell in row.items() if cell))
    if not columns:
        return ""
    classes = {column: _class(column, [row.get(column, "") for row in rows]) for column in columns}
    head = "".join(f"<th{classes[column]}>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td{classes[column]}>{_cell(row.get(column, ''))}</td>" for column in columns) + "</tr>"
        for row in rows
    )
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _class(column: str, cells: Sequence[str]) -> str:
    if column in WRAPPED:
        return " class='wrap'"
    return " class='num'" if all(re.fullmatch(r"[−–+\d.e±()% /]*", cell) for cell in cells) else ""


def _cell(text: str) -> str:
    return f"<span class='chip {CHIPS[text]}'>{text}</span>" if text in CHIPS else escape(text)
