"""The rows of a data set: generated, from local files, or from the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs

from ...core import hub
from ...core.errors import MissingExtraError, RequestError, nearest
from ...core.paths import expanded
from . import word_problems

GENERATED = "arithmetic"
_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@attrs.frozen
class Row:
    question: str
    answer: str
    """The right answer: what follows the last ``####``, or the whole text of the column where there is none."""


@attrs.frozen(eq=False)
class Rows:
    """All rows of a split, in its order."""

    rows: tuple[Row, ...]
    digest: str
    """Of questions and answers, as hexadecimal text."""


@lru_cache(maxsize=16)
def load(path: str, subset: str | None, split: str, question: str, answer: str) -> Rows:
    """The rows of one split; they stay in memory, once per process.

    Args:
        path: ``arithmetic``, a file (.jsonl, .json, .parquet), a folder of such files, or a name on the hub.
        subset: configuration on the hub, or ``None``.
        split: a name that the data set gives; a single file is the split ``train``.
        question: a column.
        answer: a column.

    Raises:
        RequestError: there is no such data set, split or column, it has no rows, or a value is missing.
        MissingExtraError: the library ``datasets`` is needed and not installed.
    """
    where = f"dataset {path}" + (f", subset {subset}" if subset else "") + f", split {split}"
    if subset and (path == GENERATED or Path(path).suffix in _FORMATS):
        raise RequestError("it has no subsets", where, "leave subset out")
    table = _generated(split, where) if path == GENERATED else _read(path, subset, split, where)
    rows = tuple(_rows(table, question, answer, where))
    if not rows:
        raise RequestError("the data set has no rows", where, "name another split or another file")
    content = json.dumps([(row.question, row.answer) for row in rows])
    return Rows(rows, hashlib.sha256(content.encode()).hexdigest())


def _rows(table: Iterable[Mapping[str, Any]], question: str, answer: str, where: str) -> Iterable[Row]:
    for number, row in enumerate(table):
        for column in (question, answer):
            if column not in row:
                fix = f"set question and answer to names of columns: {nearest(column, row)}"
                raise RequestError(f"there is no column {column!r}", where, fix)
        asked = "" if row[question] is None else str(row[question]).strip()
        right = "" if row[answer] is None else str(row[answer]).rpartition("####")[2].strip()
        if not asked or not right:
            empty = answer if asked else question
            raise RequestError(f"row {number} has no {empty}", where, "fill it in, or leave the row out")
        yield Row(asked, right)


def _generated(split: str, where: str) -> Iterable[Mapping[str, Any]]:
    splits = word_problems.generate()
    if split not in splits:
        raise RequestError(f"there is no split {split!r}", where, nearest(split, splits))
    return splits[split]


def _read(path: str, subset: str | None, split: str, where: str) -> Iterable[Mapping[str, Any]]:
    """The table of a file, a folder or a data set of the hub, by the library ``datasets``."""
    arguments, fix = _source(path, subset, split, where)
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets is not installed", where, "pip install 'uncollapse[train]'") from error
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(**arguments, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RequestError(f"the data set cannot be loaded: {reason}", where, fix) from error


def _source(path: str, subset: str | None, split: str, where: str) -> tuple[dict[str, Any], str]:
    """What ``datasets.load_dataset`` is given, and what to do if it fails."""
    try:
        file = expanded(path)
    except RequestError as error:
        raise RequestError(error.what, where, error.fix) from error
    if file.is_file():
        if file.suffix not in _FORMATS:
            raise RequestError(f"files {file.suffix!r} cannot be read", where, f"use one of {', '.join(_FORMATS)}")
        if not file.stat().st_size:
            raise RequestError("the file is empty", where, "give a file with rows")
        if split != "train":
            fix = f"put {split}{file.suffix} beside train{file.suffix} into a folder, and give the folder as path"
            raise RequestError(f"a single file is the split train: it has no split {split!r}", where, fix)
        return {"path": _FORMATS[file.suffix], "data_files": str(file)}, "see that every row has the same columns"
    if file.is_dir():
        return {"path": str(file), "name": subset}, "name its files after splits: train.jsonl, test.jsonl"
    if file.suffix in _FORMATS or path.startswith(("/", ".", "~")):
        raise RequestError("there is no such file or folder", where, "give the path of one, or a name on the hub")
    fix = "check path, subset, split and the connection, or give a local file"
    if reason := hub.refusal(path, "dataset"):
        raise RequestError(f"the data set cannot be loaded: {reason}", where, fix)
    return {"path": path, "name": subset}, fix
