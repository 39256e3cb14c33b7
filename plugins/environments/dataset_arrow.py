"""Rows of parquet files and of other Arrow tables are read, every value as text that says the same."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import MissingExtraError, RequestError, nearest
from .dataset_values import Number

_ROWS = 1000
"""Number of rows that are converted together."""
_NO_FRACTION = re.compile(r"\.0+(?!\d)")


def read_parquet(path: Path, columns: tuple[str, ...], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a parquet file, with these columns alone.

    Raises:
        RequestError: the file is no parquet file, or a column is missing, there twice, or of a type without text.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow is not installed", where, "pip install 'uncollapse[train]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            names = tops(columns, file.schema_arrow.names, where)
            yield from read_batches(file.iter_batches(batch_size=_ROWS, columns=list(names)), names, where)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RequestError(f"the data set cannot be loaded: {reason}", where, "give a parquet file") from error


def tops(columns: Sequence[str], names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the columns of the table that hold ``columns``, each once: ``a`` for ``a.b``, the field b of its records.

    Raises:
        RequestError: one of them is missing, or there twice.
    """
    top_columns = tuple(dict.fromkeys(column if column in names else column.partition(".")[0] for column in columns))
    for column in top_columns:
        if column not in names:
            fix = f"set question and answer to names of columns: {nearest(column, names)}"
            raise RequestError(f"there is no column {column!r}", where, fix)
        if list(names).count(column) > 1:
            raise RequestError(f"there are two columns {column!r}", where, "rename one of them")
    return top_columns


def is_time(schema: Any, name: str) -> bool:
    """Say whether a column of an Arrow schema holds dates or times."""
    from pyarrow import types

    return bool(types.is_temporal(schema.field(name).type))


def read_batches(
    batches: Iterable[Any], columns: tuple[str, ...], where: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of Arrow record batches or tables, numbered from 0."""
    number = 0
    for batch in batches:
        values = [_column(batch.column(batch.schema.get_field_index(name)), name, where) for name in columns]
        for row in zip(*values, strict=True):
            yield f"row {number}", dict(zip(columns, row, strict=True))
            number += 1


def _column(array: Any, name: str, where: str) -> list[Any]:
    """Convert a column. Raises RequestError if its type has no text."""
    import pyarrow

    try:
        castable = _castable(array.type)
        values = (array if castable == array.type else array.cast(castable)).to_pylist()
        return [_plain(value, array.type) for value in values]
    except (TypeError, pyarrow.ArrowException) as error:
        what = f"column {name!r} is of the type {array.type}, which has no text of its own"
        raise RequestError(what, where, "store it as text") from error


def _castable(kind: Any) -> Any:
    """Return the type with text in the place of dates and times: Arrow writes all their digits, Python does not."""
    import pyarrow
    from pyarrow import types

    if types.is_duration(kind) or types.is_interval(kind) or types.is_map(kind) or types.is_union(kind):
        raise TypeError(kind)
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _castable(kind.storage_type)
    if types.is_dictionary(kind):
        return _castable(kind.value_type)
    if types.is_temporal(kind):
        return pyarrow.string()
    if _is_list(kind):
        inner = _castable(kind.value_type)
        return kind if inner == kind.value_type else pyarrow.list_(inner)
    if types.is_struct(kind):
        fields = [(field.name, _castable(field.type)) for field in kind]
        changed = any(inner != field.type for (_, inner), field in zip(fields, kind, strict=True))
        return pyarrow.struct(fields) if changed else kind
    return kind


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _plain(value: Any, kind: Any) -> Any:
    """Turn a value of :func:`_castable`'s type into what the JSON reader gives; ``kind`` is the type in the file."""
    import pyarrow
    from pyarrow import types

    if value is None or types.is_boolean(kind):
        return value
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _plain(value, kind.storage_type)
    if types.is_dictionary(kind):
        return _plain(value, kind.value_type)
    if types.is_temporal(kind):
        return _NO_FRACTION.sub("", value)
    if types.is_integer(kind):
        return Number(value)
    if types.is_decimal(kind):
        return Number(f"{value:f}")
    if types.is_floating(kind):
        return Number(_shortest(value, kind.bit_width)) if math.isfinite(value) else float(value)
    if _is_list(kind):
        return [_plain(item, kind.value_type) for item in value]
    if types.is_struct(kind):
        return {field.name: _plain(value[field.name], field.type) for field in kind}
    return value


def _shortest(value: float, bits: int) -> str:
    """Write the fewest digits that are this number in its own width, so that 0.1 in 32 bits is also ``0.1``."""
    code = {16: "e", 32: "f", 64: "d"}[bits]
    texts = (repr(float(f"{value:.{digits}g}")) for digits in range(1, 18))
    return next(text for text in texts if struct.unpack(code, struct.pack(code, float(text)))[0] == value)
