"""The tool set ``python`` has one tool, which runs a program in a process that is shut in."""

from __future__ import annotations

import os
from typing import Literal, get_args

import attrs
from attrs.validators import and_, ge, gt, in_, le

from ....core.components import Toolset, ToolsetSession
from ....core.errors import RequestError
from .python_process import Limits, PythonProcess, obstacle

Isolation = Literal["full", "none"]
LONGEST_CODE = 2**20
"""Largest number of characters of a program."""


class PythonSession(ToolsetSession):
    """The programs of one episode."""

    def __init__(self, limits: Limits, keep: bool) -> None:
        self.limits, self.keep = limits, keep
        self.process: PythonProcess | None = None

    def python(self, code: str) -> str:
        """Run a Python program and return what it prints.

        Args:
            code: The program. The value of its last line is printed, too.
        """
        if len(code) > LONGEST_CODE:
            raise ValueError(f"the program has {len(code)} characters, at most {LONGEST_CODE} are run")
        process = self.process = self.process or PythonProcess(self.limits)
        try:
            said = process.run(code)
        except BaseException:
            self.close()
            raise
        if not self.keep:
            self.close()
        elif not process.alive:
            self.close()
            said = f"{said}. What earlier programs defined is gone"
        return said

    def close(self) -> None:
        """End the process that is kept, if there is one."""
        process, self.process = self.process, None
        if process is not None:
            process.end()


@attrs.frozen
class Python(Toolset):
    """One tool, ``python``, which runs a program and returns what it prints, with the value of its last line.

    Each program runs in a process of its own, in an empty temporary folder, without environment variables. It can use
    Python's standard library. It is ended where it takes too long, prints more than 1 MiB, or writes more than 64 MB,
    and it gets a MemoryError beyond ``memory_mb``. Errors are told to the model: the lines of the program, and what
    Python says.

    With ``isolation: full``, which needs Linux with Landlock (5.13 or newer) on x86-64 or 64-bit ARM, the kernel
    enforces this: the program can open no file but those of Python, of the system's libraries and of its folder; it can
    make no sockets, start no process, send no signals, and not change its limits. It can learn whether other files
    exist, and their sizes. Whether all this works is tried when an experiment is composed, and without it the
    experiment is refused. ``isolation: none`` keeps only the limits: the program can then do whatever you can do.
    """

    cpu_seconds: int = attrs.field(default=5, validator=and_(ge(1), le(3600)))
    """Most seconds of processor time of a program; without a limit if ``keep``."""
    wait_seconds: float = attrs.field(default=20.0, validator=and_(gt(0), le(3600)))
    """Longest time of a program in seconds, whatever it waits for."""
    memory_mb: int = attrs.field(default=512, validator=and_(ge(64), le(2**20)))
    """Most memory of a program in MB (address space)."""
    keep: bool = False
    """Whether what a program defines is there for the next one of the episode, in the same process and folder."""
    packages: bool = False
    """Whether the packages can be imported that are installed beside Python's own, such as numpy. They may need more
    ``memory_mb``."""
    isolation: Isolation = attrs.field(default="full", validator=in_(get_args(Isolation)))
    """What the kernel keeps from a program: ``full``, or ``none``."""

    tools = (PythonSession.python,)

    def __attrs_post_init__(self) -> None:
        if self.isolation == "full" and (reason := obstacle(self.packages)):
            raise RequestError(
                f"programs of the model cannot be shut in on this machine: {reason}",
                "toolset: python",
                "use Linux with Landlock, or isolation: none, which lets them do whatever you can do",
            )

    @property
    def starts_programs(self) -> bool:  # type: ignore[override]
        """Whether programs of the model can do whatever the user can do."""
        return self.isolation == "none"

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        """Number of processors, since programs compute."""
        return max(2, os.cpu_count() or 1)

    def start(self, seed: int, member: int) -> PythonSession:
        """Begin an episode; a process is started with the first program."""
        cpu_s = 0 if self.keep else self.cpu_seconds
        limits = Limits(self.wait_seconds, cpu_s, self.memory_mb, self.packages, self.isolation == "full")
        return PythonSession(limits, self.keep)
