"""Checkpoints on disk: complete or not there, and known to be damaged where they are.

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

from .errors import RunError
from .files import replace_text, to_json

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
        files = json.loads((checkpoint / "state.json").read_text("utf-8"))["files"]
    except FileNotFoundError:
        return "state.json is missing"
    except (ValueError, KeyError, TypeError):
        return "state.json is not readable"
    for name, recorded in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != recorded["size"]:
            return f"{name} has {path.stat().st_size} bytes, and {recorded['size']} were written"
        if "sha256" in recorded and _digest(path) != recorded["sha256"]:
            return f"{name} is not what was written"
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
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        files = {
            str(path.relative_to(temporary)): _record(path) for path in sorted(temporary.rglob("*")) if path.is_file()
        }
        replace_text(temporary / "state.json", to_json({**state, "step": step, "files": files}, indent=1))
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _record(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"size": size, "sha256": _digest(path)} if size <= HASHED else {"size": size}


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
