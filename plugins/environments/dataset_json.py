"""Rows of .jsonl and .json files are read, every number as the characters that stand in the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import RequestError
from .dataset_values import Number

Place = str
"""Place of a row, for messages: ``row 0 (line 1)``."""

_LINES_FIX = 'a .jsonl file holds one object a line: {"question": ..., "answer": ...}'
_FILE_FIX = "a .json file holds a list of objects, one for each row"


def read_lines(path: Path, where: str) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Yield the rows of a JSON Lines file; lines with nothing but white space are left out.

    Raises:
        RequestError: a line is no JSON object in UTF-8.
    """
    rows = 0
    # read as bytes, in which only a line feed ends a line: text may hold other separators
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if not line.strip():
                continue
            place = f"row {rows} (line {number})"
            yield place, _record(_parse(line, f"line {number}", where, _LINES_FIX), f"line {number}", where, _LINES_FIX)
            rows += 1


def read_file(path: Path, columns: tuple[str, ...], where: str) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Yield the rows of a JSON file: a list of objects, an object that holds one such list, or an object of columns.

    JSON Lines under the name .json are read as well.

    Raises:
        RequestError: the file is none of these.
    """
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    first, _, rest = content.strip().partition(b"\n")
    if rest and first.startswith(b"{") and first.rstrip().endswith(b"}"):
        yield from read_lines(path, where)
        return
    data = _parse(content, "the file", where, _FILE_FIX)
    rows = _rows(data, columns, where) if isinstance(data, Mapping) else data
    if not isinstance(rows, list):
        raise RequestError("the data set cannot be loaded: the file holds no list of rows", where, _FILE_FIX)
    for number, row in enumerate(rows):
        yield f"row {number}", _record(row, f"row {number}", where, _FILE_FIX)


def _rows(data: Mapping[str, Any], columns: tuple[str, ...], where: str) -> Any:
    """Return the rows that an object holds: columns, the object itself, or a list of objects in it; else ``None``."""
    columns = tuple(column if column in data else column.partition(".")[0] for column in columns)
    lists = {key: value for key, value in data.items() if isinstance(value, list)}
    if set(columns) <= lists.keys():
        lengths = {key: len(lists[key]) for key in columns}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
            raise RequestError(f"the columns are not of one length: {listed}", where, "give every row every column")
        values_by_column = [lists[key] for key in columns]
        return [dict(zip(columns, values, strict=True)) for values in zip(*values_by_column, strict=True)]
    if set(columns) <= data.keys():
        return [data]
    tables = [key for key, value in lists.items() if value and all(isinstance(item, Mapping) for item in value)]
    if len(tables) > 1:
        fix = "put each of them into a file of its own"
        raise RequestError(f"the file holds several lists of rows: {', '.join(tables)}", where, fix)
    return lists[tables[0]] if tables else None


def _record(value: Any, place: str, where: str, fix: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RequestError(f"the data set cannot be loaded: {place} is no object", where, fix)
    return value


def _parse(content: bytes, place: str, where: str, fix: str) -> Any:
    """Decode JSON. Raises RequestError, with the place, if it is none."""
    try:
        return _DECODER.decode(content.decode())
    except UnicodeDecodeError as error:
        reason = f"the data set cannot be loaded: {place} is not UTF-8 (byte {error.start})"
        raise RequestError(reason, where, "save the file as UTF-8") from error
    except RecursionError as error:
        raise RequestError(f"the data set cannot be loaded: {place} is nested too deeply", where, fix) from error
    except json.JSONDecodeError as error:
        spot = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        reason = f"the data set cannot be loaded: {place} is no JSON: {error.msg} ({spot})"
        raise RequestError(reason, where, fix) from error
    except ValueError as error:
        raise RequestError(f"the data set cannot be loaded: {place}: {error}", where, fix) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object. Raises ValueError if it has a key twice, which the JSON module would accept."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return record


_DECODER = json.JSONDecoder(
    parse_int=Number, parse_float=Number, parse_constant=float, object_pairs_hook=_without_duplicates
)
