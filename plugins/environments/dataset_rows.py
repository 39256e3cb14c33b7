"""The rows of a data set are generated, or come from local files or from the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs

from ...core.compose import hub
from ...core.compose.named import Named
from ...core.errors import MissingExtraError, RequestError, nearest
from ...core.paths import expanded
from . import word_problems
from .dataset_arrow import is_time, read_batches, read_parquet, tops
from .dataset_json import read_file, read_lines
from .dataset_values import Question, answer_texts, question_of, reasoning_of, system_of

GENERATED = "arithmetic"
_FORMATS = (".jsonl", ".json", ".parquet")
Table = Iterable[tuple[str, Mapping[str, Any]]]
"""Place of each row, for messages, with its columns."""


def _texts(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


@attrs.frozen
class Row:
    """A row is a question with its right answers."""

    question: str
    """Text of the question."""
    answers: tuple[str, ...] = attrs.field(converter=_texts)
    """Answers that are right. In each of them only the part after the last ``####`` counts, if there is one."""
    place: str = attrs.field(default="", eq=False, repr=False)
    """Place of the row, for messages: ``row 9 (line 10)``."""
    system: str = attrs.field(default="", repr=False)
    """System text of the row."""
    earlier: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=False)
    """Texts of the user before the question, each with the answer to it."""
    reasoning: str = attrs.field(default="", eq=False, repr=False)
    """Text that leads to the first right answer; only demonstrations show it."""

    @property
    def answer(self) -> str:
        """First right answer."""
        return self.answers[0]

    @property
    def characters(self) -> int:
        """Length of all that the row asks."""
        return sum(map(len, (self.question, self.system, *(text for turn in self.earlier for text in turn))))


@attrs.frozen(eq=False)
class Rows:
    """The rows of a split, in its order."""

    rows: tuple[Row, ...]
    """All rows."""
    digest: str
    """Hash of questions and answers, as hexadecimal text."""


_seen: dict[str, list[tuple[str, int, int]]] = {}
"""State of the files of a path when it was last asked for: name, time of the last change, size in bytes."""


def forget_changed(path: str) -> None:
    """Let :func:`load` read files again that have changed since they were last asked for.

    This is called when an experiment is composed, and never during a run: the tasks of a run stay what they were.
    """
    try:
        place = expanded(path)
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        state = [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    except (RequestError, OSError):
        # it is no file, or one that load will refuse
        return
    if _seen.setdefault(path, state) != state:
        load.cache_clear()
        _seen[path] = state


@lru_cache(maxsize=16)
def load(
    path: str,
    subset: str | None,
    split: str,
    question: str,
    answer: str,
    longest: int | None = None,
    system: str | None = None,
) -> Rows:
    """Load the rows of one split; they stay in memory, once per process.

    Args:
        path: ``arithmetic``, a file (.jsonl, .json, .parquet), a folder of such files, or a name on the hub.
        subset: configuration on the hub, or ``None``.
        split: the name that the data set gives it; a single file is the split ``train``.
        question: the column of questions; ``a.b`` is the field b of the records in column a.
        answer: the column of answers, named in the same way.
        longest: rows with a longer question (characters) are left out; ``None`` keeps all.
        system: the column of system texts, or ``None``.

    Raises:
        RequestError: there is no such data set, split or column, it has no rows, or a value is missing or has no text.
        MissingExtraError: a library that reads the data set is not installed.
    """
    where = f"dataset {path}" + (f", subset {subset}" if subset else "") + f", split {split}"
    if subset and (path == GENERATED or Path(path).suffix in _FORMATS):
        raise RequestError("it has no subsets", where, "leave subset out")
    columns = (question, answer, *([system] if system else []))
    table = _generated(split, where) if path == GENERATED else _read(path, subset, split, columns, where)
    rows, digest = [], hashlib.sha256()
    try:
        for place, values in table:
            row = _row(place, values, columns, where)
            if longest is None or row.characters <= longest:
                rows.append(row)
                before = [row.system, row.earlier] if row.system or row.earlier else []
                digest.update(json.dumps([row.question, row.answers, *before]).encode() + b"\n")
    except OSError as error:
        reason = f"the data set cannot be loaded: {error.strerror or error}"
        raise RequestError(reason, where, "see that the file can be read") from error
    if not rows:
        of_length = f" of at most {longest} characters" if longest is not None else ""
        raise RequestError(f"the data set has no rows{of_length}", where, "name another split or another file")
    return Rows(tuple(rows), digest.hexdigest())


def _row(place: str, values: Mapping[str, Any], columns: tuple[str, ...], where: str) -> Row:
    """Read question, answers and system text of a row. Raises RequestError, with the place, if one has no text."""
    read: list[Any] = []
    for column, to_text in zip(columns, (question_of, answer_texts, system_of), strict=False):
        value = _cell(values, column, place, where)
        try:
            read.append(to_text(value))
        except ValueError as error:
            raise RequestError(f"{place}, column {column!r}: {error}", where, _fix(value, column)) from error
    question: Question = read[0]
    system = "\n\n".join(filter(None, (*read[2:], question.system)))
    reasoning = reasoning_of(_cell(values, columns[1], place, where))
    return Row(question.text, read[1], place, system, question.earlier, reasoning)


def _cell(values: Mapping[str, Any], column: str, place: str, where: str) -> Any:
    """Return the value of a column, or of a field of its record. Raises RequestError if there is none."""
    value: Any = values
    names = [column] if column in values else column.split(".")
    for name in names:
        if not isinstance(value, Mapping) or name not in value:
            fix = f"set question and answer to names of columns: {nearest(column, values)}"
            raise RequestError(f"{place}: there is no column {column!r}", where, fix)
        value = value[name]
    return value


def _fix(value: Any, column: str) -> str:
    if isinstance(value, Mapping) and value:
        return f"name the field that is meant, such as {column}.{next(iter(value))}"
    return "write it as text, or leave the row out"


def _generated(split: str, where: str) -> Table:
    splits = word_problems.generate()
    if split not in splits:
        raise RequestError(f"there is no split {split!r}", where, nearest(split, splits))
    return ((f"row {number}", row) for number, row in enumerate(splits[split]))


def _read(path: str, subset: str | None, split: str, columns: tuple[str, ...], where: str) -> Table:
    """Open the table of a file, a folder or a data set of the hub."""
    try:
        file = expanded(path)
    except RequestError as error:
        raise RequestError(error.what, where, error.fix) from error
    if file.is_file():
        if split != "train":
            fix = f"put {split}{file.suffix} beside train{file.suffix} into a folder, and give the folder as path"
            raise RequestError(f"a single file is the split train: it has no split {split!r}", where, fix)
        return _file(file, columns, where)
    if file.is_dir():
        return _folder(file, subset, split, columns, where)
    if file.suffix in _FORMATS or path.startswith(("/", ".", "~")):
        raise RequestError("there is no such file or folder", where, "give the path of one, or a name on the hub")
    return _hub(path, subset, split, columns, where)


def _file(file: Path, columns: tuple[str, ...], where: str) -> Table:
    if file.suffix not in _FORMATS:
        raise RequestError(f"files {file.suffix!r} cannot be read", where, f"use one of {', '.join(_FORMATS)}")
    if not file.stat().st_size:
        raise RequestError("the file is empty", where, "give a file with rows")
    if file.suffix == ".parquet":
        return read_parquet(file, columns, where)
    return read_lines(file, where) if file.suffix == ".jsonl" else read_file(file, columns, where)


def _folder(folder: Path, subset: str | None, split: str, columns: tuple[str, ...], where: str) -> Table:
    """Open the files of a folder that are the split, as the library ``datasets`` finds them."""
    fix = "name its files after splits: train.jsonl, test.jsonl"
    builder = _ask("load_dataset_builder", where, fix, path=str(folder), name=subset)
    files = builder.config.data_files or {}
    if split not in files:
        raise RequestError(f"there is no split {split!r}", where, nearest(split, map(str, files)))
    return _files([Path(file) for file in files[split]], columns, where)


def _files(files: list[Path], columns: tuple[str, ...], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for file in files:
        for place, row in _file(file, columns, where):
            yield f"{file.name}, {place}" if len(files) > 1 else place, row


def _hub(path: str, subset: str | None, split: str, columns: tuple[str, ...], where: str) -> Table:
    fix = "check path, subset, split and the connection, or give a local file"
    if reason := hub.refusal(path, "dataset"):
        raise RequestError(f"the data set cannot be loaded: {reason}", where, fix)
    table = _ask("load_dataset", where, fix, path=path, name=subset, split=split)
    names = tops(columns, table.column_names, where)
    # JSON has no times: the library has guessed them from text, and the text is gone
    guessed_times = [
        name for name in names if table.builder_name == "json" and is_time(table.features.arrow_schema, name)
    ]
    if guessed_times:
        column = guessed_times[0]
        what = f"column {column!r} is text that looks like times, which the library datasets does not keep as it is"
        raise RequestError(what, where, "download the files, and give their folder as path")
    return read_batches(table.select_columns(list(names)).with_format("arrow").iter(batch_size=1000), names, where)


def _ask(function: str, where: str, fix: str, **arguments: Any) -> Any:
    """Call a function of the library ``datasets``. Raises RequestError where it fails."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets is not installed", where, "pip install 'uncollapse[train]'") from error
    datasets.disable_progress_bars()
    try:
        return getattr(datasets, function)(**arguments)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RequestError(f"the data set cannot be loaded: {reason}", where, fix) from error


@lru_cache(maxsize=16)
def refuse_unverifiable(rows: Rows, verifier: Named) -> None:
    """Raise RequestError with the first row for which no answer can be right."""
    for row in rows.rows:
        if objection := verifier.component.objection(row.question, row.answers):
            fix = "mend the row, or choose another verifier"
            raise RequestError(f"{row.place}: {objection}", f"verifier: {verifier.name}", fix)
