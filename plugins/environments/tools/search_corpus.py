"""The texts that a search looks through: a file or a folder, cut into passages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from ....core.components.tools import text_of
from ....core.errors import RequestError, nearest
from ....core.paths import expanded
from ..dataset_json import read_lines

SUFFIXES = (".jsonl", ".txt", ".md")
_PARAGRAPH = re.compile(r"\n\s*\n")
_WORD = re.compile(r"\w")
_FIX = "give a .jsonl file with a text in each line, a .txt or .md file, or a folder of such files"


@attrs.frozen
class Passage:
    """A passage is what a search can find."""

    title: str
    """Title of the text that it is a part of; empty if that has none."""
    text: str

    @property
    def shown(self) -> str:
        """Passage as the model reads it."""
        return f"{self.title}: {self.text}" if self.title else self.text


@attrs.frozen
class Corpus:
    """A corpus is a place with texts, and how they are read."""

    path: str
    text: str
    """Column of the texts in a .jsonl file."""
    title: str
    """Column of their titles, where there is one."""
    characters: int
    """Largest number of characters of a passage."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of the corpus, in the order of their names. Raises RequestError if there are none."""
        place, where = expanded(self.path), f"toolset: search, corpus {self.path}"
        if place.is_dir():
            files = tuple(sorted(path for path in place.rglob("*") if path.suffix in SUFFIXES and path.is_file()))
            if not files:
                raise RequestError(
                    f"the folder holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file", where, _FIX
                )
            return files
        if not place.is_file():
            raise RequestError("there is no such file or folder", where, _FIX)
        if place.suffix not in SUFFIXES:
            raise RequestError(f"{place.suffix or 'a file without a suffix'} cannot be read", where, _FIX)
        return (place,)

    @property
    def state(self) -> tuple[tuple[str, int, int], ...]:
        """Name, time of the last change and size of each file."""
        stats = [(path, path.stat()) for path in self.files]
        return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats)

    def passages(self) -> tuple[Passage, ...]:
        """Read all passages, in order.

        Raises:
            RequestError: a file cannot be read, a line of one has no text, or there is nothing in all of them.
        """
        found: list[Passage] = []
        for path in self.files:
            where = f"toolset: search, corpus {path}"
            try:
                texts = list(self._lines(path, where) if path.suffix == ".jsonl" else self._paragraphs(path))
            except (OSError, UnicodeDecodeError) as error:
                raise RequestError(f"the corpus cannot be read: {error}", where, "give text in UTF-8") from error
            for title, text in texts:
                cut = parts(text_of(text), self.characters)
                found += [Passage(text_of(title), part) for part in cut if _WORD.search(part)]
        if not found:
            raise RequestError("the corpus holds no text", f"toolset: search, corpus {self.path}", _FIX)
        return tuple(found)

    def _lines(self, path: Path, where: str) -> Iterator[tuple[str, str]]:
        for place, row in read_lines(path, where):
            text, title = row.get(self.text), row.get(self.title)
            if not isinstance(text, str):
                what = "is missing" if self.text not in row else f"is {text!r}, not a text"
                raise RequestError(f"{place}: {self.text!r} {what}", where, f"set text: {nearest(self.text, row)}")
            yield (title if isinstance(title, str) else "", text)

    def _paragraphs(self, path: Path) -> Iterator[tuple[str, str]]:
        # a file of a folder is known by its name, a single file needs no title
        title = path.stem if expanded(self.path).is_dir() else ""
        for paragraph in _PARAGRAPH.split(path.read_text("utf-8-sig")):
            yield title, paragraph


def parts(text: str, longest: int) -> list[str]:
    """Cut a text into parts of at most ``longest`` characters, between words where it can, with single spaces."""
    found: list[str] = []
    for word in text.split():
        pieces = [word[start : start + longest] for start in range(0, len(word), longest)]
        for piece in pieces:
            if found and len(found[-1]) + 1 + len(piece) <= longest:
                found[-1] += f" {piece}"
            else:
                found.append(piece)
    return found


def digest_of(passages: tuple[Passage, ...]) -> str:
    """Hash passages."""
    lines = "\n".join(passage.shown for passage in passages)
    return hashlib.sha256(lines.encode()).hexdigest()
