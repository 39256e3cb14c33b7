"""Files of a run that are damaged, or stand where another one belongs, are kept aside and never deleted."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import stat
from pathlib import Path

from ..paths import KINDS

TEMPORARY = re.compile(r".+\.(\d+)\.tmp")
"""What :func:`~..files.replace_text` calls a file that is not whole yet, with the number of its process."""


def keep_aside(path: Path) -> Path:
    """A copy of a damaged file, ``<name>.damaged`` or with a number behind it; the file itself stays."""
    free = _damaged_name(path)
    shutil.copyfile(path, free)
    return free


def clear_ways(*paths: Path) -> list[str]:
    """Rename what is in the place of a file and is none, to ``<name>.damaged``; what was done, in words."""
    done = []
    for path in paths:
        if what := what_is(path):
            free = path.rename(_damaged_name(path))
            done.append(f"{what} was in the place of {path.name}, now at {free}")
    return done


def what_is(path: Path) -> str:
    """Say what a path is, such as ``a pipe`` or ``a link to nothing``; nothing if it is a file, or nothing is there."""
    try:
        return KINDS.get(stat.S_IFMT(path.stat().st_mode), "")
    except OSError:
        return "a link to nothing" if path.is_symlink() else ""


def _damaged_name(path: Path) -> Path:
    names = (f"{path.name}.damaged{f'.{number}' if number else ''}" for number in itertools.count())
    return next(free for name in names if not os.path.lexists(free := path.with_name(name)))


def remove_temporaries(directory: Path) -> None:
    """Delete what :func:`~..files.replace_text` has left there in processes that were killed."""
    for path in directory.glob("*.tmp"):
        match = TEMPORARY.fullmatch(path.name)
        if match and path.is_file() and not _another_lives(int(match[1])):
            path.unlink(missing_ok=True)


def _another_lives(pid: int) -> bool:
    """Whether a process of this number, which is not this one, is there."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
