"""A path that a person gives is checked at once, and reading it takes bounded time and memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import RequestError

LIMIT = 1 << 20
"""Bytes of the largest text file that is read because a request names it."""
LONGEST, LONGEST_NAME = 4096, 255
"""Bytes of a path and of one name in it, on the systems that we know."""
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def expanded(path: str | Path) -> Path:
    """The path with ``~`` and ``~user`` resolved.

    Raises:
        RequestError: it is empty, it has a null character, or there is no such user.
    """
    text = str(path)
    if reason := unusable(text):
        raise RequestError(f"the path {shown_path(text)!r} {reason}", fix="give another path")
    return Path(text).expanduser()


def cache_directory() -> Path:
    """The directory of what is made once and kept: ``$UNCOLLAPSE_CACHE``, or ``~/.cache/uncollapse``."""
    return Path(os.environ.get("UNCOLLAPSE_CACHE") or Path.home() / ".cache" / "uncollapse")


def unusable(text: str) -> str:
    """Say why a text can be no path at all; nothing if it can."""
    if not text:
        return "is empty"
    if "\0" in text:
        return "has a null character"
    try:
        name = os.fsencode(text)
    except UnicodeEncodeError:
        return "has characters that this locale has no bytes for; set PYTHONUTF8=1"
    if len(name) >= LONGEST or any(len(part) > LONGEST_NAME for part in name.split(b"/")):
        return "is too long for a path"
    if text.startswith("~"):
        try:
            Path(text).expanduser()
        except RuntimeError:
            return f"names a home directory that is not known: {text.partition('/')[0]}"
    return ""


def is_there(text: str) -> bool:
    """Whether a text is the path of something; no text is too odd to ask for."""
    try:
        return not unusable(text) and Path(text).exists()
    except OSError:  # a loop of links, or in a directory that is closed to us
        return True


def is_folder(path: str | Path) -> bool:
    """Whether there is a directory; no text is too odd to ask for."""
    try:
        return not unusable(str(path)) and Path(path).is_dir()
    except OSError:
        return False


def read_text(path: str | Path, limit: int = LIMIT, errors: str = "strict") -> str:
    """The UTF-8 text of a file, without a byte order mark; ``errors`` as ``bytes.decode`` has it.

    Raises:
        RequestError: it is missing, no plain file (a pipe would be waited for, a device may never end), larger than
            ``limit`` bytes, unreadable, or no UTF-8.
    """
    file = expanded(path)
    where = shown_path(str(file))
    try:
        if kind := KINDS.get(stat.S_IFMT(file.stat().st_mode)):
            raise RequestError(f"the file {where} is {kind}, not a file", fix="give the path of a text file")
        with file.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise RequestError(f"the file {where} cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise RequestError(f"the file {where} is larger than {limit >> 10} KiB, the most that is read")
    try:
        return content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise RequestError(f"the file {where} is not UTF-8 text") from error


def shown_path(path: object) -> str:
    """A path for a message; of a very long one, its ends."""
    text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)
    return text if len(text) <= 300 else f"{text[:140]}...{text[-140:]}"
