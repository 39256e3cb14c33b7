"""The MCP server that an experiment names: a program, or an address."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import attrs

from .....core.errors import RequestError

PASSED_ON = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER")
"""The variables of the run's environment that a server has, beside those that are named."""


@attrs.frozen
class Program:
    """A program with its arguments, or the address of one that runs. Two that are equal may share one process."""

    command: str = ""
    """Name or path of the program; empty for a server at an address."""
    args: tuple[str, ...] = ()
    """Its arguments."""
    env: tuple[tuple[str, str], ...] = ()
    """Names and values of environment variables."""
    inherit: tuple[str, ...] = ()
    """Names of the run's own environment variables that it gets."""
    directory: str | None = None
    """Folder in which it runs; ``None`` for that of the run."""
    url: str = ""
    """Address of a server that runs already."""
    shared: bool = True
    """Whether all episodes share one process."""
    start_timeout: float = 60.0
    """Seconds that it may take to start and to list its tools."""

    @property
    def where(self) -> str:
        """The words that name it in messages."""
        return f"the MCP server {self.url or '`' + ' '.join((self.command, *self.args))[:200] + '`'}"

    @property
    def environment(self) -> dict[str, str]:
        """Its environment variables. Raises RequestError if one that it inherits is not set."""
        if missing := [name for name in self.inherit if name not in os.environ]:
            raise RequestError(f"the environment variable {missing[0]} is not set", self.where, "set it, and run again")
        passed = {name: os.environ[name] for name in (*PASSED_ON, *self.inherit) if name in os.environ}
        return {**passed, **dict(self.env)}

    @property
    def words(self) -> list[str]:
        """The words that start it, tied to this process. Raises RequestError if there is no such program or folder."""
        if self.directory is not None and not Path(self.directory).is_dir():
            raise RequestError(f"there is no folder {self.directory!r}", self.where, "give an existing one")
        command = Path(self.command).expanduser()
        if len(command.parts) > 1:  # a path is relative to the folder in which the program runs
            command = Path.cwd() / (self.directory or "") / command
        found = shutil.which(command, path=self.environment.get("PATH"))
        if found is None:
            fix = "give the path of the program, or install it"
            if " " in self.command.strip():
                fix = "give the name of the program alone, and its arguments as args: [...]"
            raise RequestError(f"there is no program {self.command!r}", self.where, fix)
        tied = str(Path(__file__).with_name("tied.py"))
        return [sys.executable, "-I", "-S", tied, str(os.getpid()), str(Path.cwd() / found), *self.args]
