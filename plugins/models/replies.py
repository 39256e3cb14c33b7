"""What a model has said is kept on disk under a hash of all that it was asked, and nothing is asked twice at once."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from ...core.files import make_directory, replace_text

_LONGEST = 1 << 20
"""The largest number of bytes of a file that is read."""


@attrs.frozen
class Reply:
    """What a model says; or why it says nothing, which is then ``missing``."""

    text: str = ""
    missing: str = ""


def cached(folder: Path, content: Sequence[Any], ask: Callable[[], Reply], counts: Callable[[Reply], bool]) -> Reply:
    """Return the reply that is kept for ``content``, else that of ``ask``, which is kept if it ``counts``.

    Threads that ask for the same content at the same time wait for the first of them.

    Raises:
        RequestError: the folder cannot be written.
    """
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    file = folder / digest[:2] / f"{digest}.json"
    with _LOCK:
        asked = _ASKED.get(file)
        first = asked is None
        if asked is None:
            asked = _ASKED[file] = Future()
    if not first:
        return asked.result()
    try:
        reply = _read(file)
        if reply is None or not counts(reply):
            reply = ask()
            if counts(reply):
                make_directory(file.parent)
                replace_text(file, json.dumps({"reply": reply.text}))
        asked.set_result(reply)
        return reply
    except Exception as error:
        asked.set_exception(error)
        raise
    except BaseException:  # a time limit ends this thread's work alone
        asked.set_result(Reply(missing="another thread that has asked the same was ended"))
        raise
    finally:
        with _LOCK:
            del _ASKED[file]


def identity(model: str) -> list[Any]:
    """Return what tells a model from others: its name; of a directory, also the sizes and times of its files."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return [model]
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [str(folder.resolve()), [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]]


def _read(file: Path) -> Reply | None:
    """Return what a file holds; ``None`` if it is missing or damaged, since it can be asked for again."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        with file.open("rb") as stream:
            text = json.loads(stream.read(_LONGEST))["reply"]
        return Reply(text) if isinstance(text, str) else None
    return None


_LOCK = threading.Lock()
_ASKED: dict[Path, Future[Reply]] = {}
"""The files for whose content a thread is asking just now."""
