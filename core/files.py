"""Files are replaced as a whole, and JSON is written as any reader accepts it."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import IO, Any

from .errors import RequestError
from .paths import KINDS


def make_directory(path: Path) -> None:
    """Make a directory, and those above it, unless it is there. Raises RequestError if nothing can be written to it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
    else:
        if os.access(path, os.W_OK | os.X_OK):
            return
        reason = os.strerror(errno.EACCES)
    raise RequestError(f"the directory cannot be written: {reason}", str(path), "give another directory")


def file_sha256(path: Path | None) -> str:
    """The hex digest of a file's bytes; empty without a file."""
    return sha256(path.read_bytes()).hexdigest() if path and path.is_file() else ""


def content_sha256(path: Path) -> str:
    """Hash a file that something is made from. Raises RequestError if it cannot be read."""
    try:
        with open_plain(path) as opened:
            return file_digest(opened, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise RequestError(f"the file cannot be read: {error.strerror}", str(path), "give another file") from error


def require_place(path: Path) -> None:
    """See that :func:`make_directory` could make a directory, and make none. Raises RequestError."""
    above = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    reason = 0 if above.is_dir() else errno.ENOTDIR
    if not reason and not os.access(above, os.W_OK | os.X_OK):
        reason = errno.EACCES
    if reason:
        raise RequestError(
            f"the directory cannot be written: {os.strerror(reason)}", str(path), "give another directory"
        )


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill, finds the old content or the new one, never a part."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(encode(text))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_plain(path: Path, mode: str = "rb") -> IO[bytes]:
    """Open a file, which may be behind a link.

    Raises OSError, also where something else is in its place: a pipe would be waited for, a device may never end.
    """
    stream: IO[bytes] = open(path, mode, opener=_open_at_once)  # noqa: SIM115 - the caller closes it
    if kind := KINDS.get(stat.S_IFMT(os.fstat(stream.fileno()).st_mode)):
        stream.close()
        raise OSError(errno.EINVAL, f"{kind} is in its place", str(path))
    return stream


def _open_at_once(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK, 0o666)


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises OSError as :func:`open_plain` does."""
    with open_plain(path) as stream:
        return stream.read()


def encode(text: str) -> bytes:
    """Encode as UTF-8; half a surrogate pair, which a tokenizer may emit, becomes an escape that JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def to_json(value: object, indent: int | None = None, ascii_only: bool = False) -> str:
    """Write JSON as the standard has it: NaN and infinities become null, and 0-d arrays (with ``item()``) numbers."""
    return json.dumps(_clean(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def is_number(value: object) -> bool:
    """Whether a value of JSON is a number that fits a float; infinities do."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, float) and hasattr(value, "item"):
        return _clean(value.item())
    return float(value) if math.isfinite(value) else None
