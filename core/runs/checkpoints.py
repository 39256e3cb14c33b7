"""A checkpoint on disk is complete or not there, and one that is damaged is known to be.

A checkpoint is written into ``step_N.tmp`` and renamed when its last file, ``state.json``, stands: that lists every
other file with its size, and its SHA-256 up to 64 MiB. Whatever a kill or a full disk cuts short is found out.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..errors import RequestError, RunError
from ..files import open_plain, read_bytes, replace_text, to_json
from .locks import take

HASHED = 64 * 2**20
"""Bytes up to which a file is hashed; of larger ones only the size is recorded."""

_NAME = re.compile(r"step_(\d+)")


def step_of(checkpoint: Path) -> int:
    """The step of ``.../step_N``."""
    return int(checkpoint.name.removeprefix("step_"))


def stored(directory: Path) -> list[Path]:
    """Every ``step_N`` under ``directory``, good or not, by step."""
    if not directory.is_dir():
        return []
    return sorted((path for path in directory.iterdir() if _NAME.fullmatch(path.name)), key=step_of)


def damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint; empty if it is complete."""
    try:
        state = json.loads(read_bytes(checkpoint / "state.json").decode())
        files = {str(name): dict(recorded) for name, recorded in state["files"].items()}
        sizes = {name: int(recorded["size"]) for name, recorded in files.items()}
        step = state["step"]
    except (FileNotFoundError, NotADirectoryError):
        return "state.json is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "state.json is not readable"
    if step != step_of(checkpoint):
        return f"it is of step {step}"
    for name, recorded in files.items():
        path = checkpoint / name
        try:
            if path.stat().st_size != sizes[name]:
                return f"{name} has {path.stat().st_size} bytes, and {sizes[name]} were written"
            if "sha256" in recorded and _digest(path) != recorded["sha256"]:
                return f"{name} is not what was written"
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return ""


@contextmanager
def write(directory: Path, step: int, state: Mapping[str, Any]) -> Iterator[Path]:
    """A temporary directory that becomes ``directory/step_N`` on leaving, with ``state`` in its ``state.json``.

    Raises:
        RunError: there is a complete checkpoint of this step already.
        OSError: as the file system raised it; what was written is removed.
    """
    final = directory / f"step_{step}"
    temporary = directory / f"step_{step}.tmp"
    if final.exists() and not damage(final):
        raise RunError(f"there is a checkpoint of step {step} already", str(final), "checkpoints are never overwritten")
    delete(temporary)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        files = {
            str(path.relative_to(temporary)): _record(path) for path in sorted(temporary.rglob("*")) if path.is_file()
        }
        replace_text(temporary / "state.json", to_json({**state, "step": step, "files": files}, indent=1))
        delete(final)
        temporary.rename(final)
    except BaseException:
        delete(temporary)
        raise


@contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """Keep a complete checkpoint from being deleted by the run that writes here, while it is read.

    Raises:
        RequestError: it was deleted before that.
    """
    try:
        stream = open_plain(checkpoint / "state.json")
    except OSError as error:
        raise _gone(checkpoint) from error
    with stream:
        take(stream, shared=True)
        if damage(checkpoint):
            raise _gone(checkpoint)
        yield


def _gone(checkpoint: Path) -> RequestError:
    fix = "name the run directory: its newest checkpoint is read (the run keeps trainer.keep of them)"
    return RequestError("the run has deleted this checkpoint meanwhile", str(checkpoint), fix)


def remove(checkpoint: Path) -> None:
    """Delete a complete checkpoint, unless somebody reads it; at once for all who look for it, files after that."""
    with open_plain(checkpoint / "state.json") as stream:
        if take(stream):
            leaving = checkpoint.with_name(f"{checkpoint.name}.tmp")
            delete(leaving)
            checkpoint.rename(leaving)
            delete(leaving)


def delete(path: Path) -> None:
    """Delete a directory with all that is in it, a file, or of a symbolic link the link alone; nothing is no error."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _record(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"size": size, "sha256": _digest(path)} if size <= HASHED else {"size": size}


def _digest(path: Path) -> str:
    return sha256(read_bytes(path)).hexdigest()
