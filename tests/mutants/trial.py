"""Running tests against a mutant: a forked process that imports the changed source in place of the module."""

import importlib.abc
import importlib.util
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
from plant import Mutant

SECONDS = 600
"""A mutant that makes its tests hang is dead after this long."""
WARM = ("torch", "torch.func", "transformers", "hypothesis", "numpy", "peft", "attrs", "pluggy")
"""Imported once, before the first fork; nothing of ours is among them."""


@attrs.frozen
class Trial:
    """What became of a mutant."""

    mutant: Mutant
    dead: bool
    seconds: float
    output: str = attrs.field(repr=False)


class _Planted(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Gives a module another source."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self.name, self.path, self.source = name, path, source

    def find_spec(self, fullname, path=None, target=None):
        if fullname == self.name:
            return importlib.util.spec_from_file_location(fullname, self.path, loader=self)
        return None

    def get_filename(self, fullname):
        return str(self.path)

    def get_data(self, path):
        return self.source.encode()

    def path_stats(self, path):
        raise OSError  # never from, and never into, the cache of compiled modules


def try_out(root: Path, mutant: Mutant | None, paths: Sequence[str], tests: Sequence[str]) -> Trial:
    """Run the tests of some modules in a process of their own; without a mutant they run against them as they are."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output.txt")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.setsid()
            _test(root, mutant, paths, tests, output, Path(folder))
        os.close(writing)
        ended = bool(select.select([reading], [], [], SECONDS)[0])  # the pipe closes with the process
        os.close(reading)
        if not ended:
            os.killpg(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        text = output.read_text("utf-8", "replace") if output.exists() else ""
        return Trial(mutant, code != 0, time.monotonic() - started, text if ended else f"{text}\ntoo slow")


def _test(
    root: Path, mutant: Mutant | None, paths: Sequence[str], tests: Sequence[str], output: Path, folder: Path
) -> None:
    code = 99
    try:
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder)
        with output.open("w") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        modules = ["uncollapse." + path.removesuffix(".py").replace("/", ".") for path in paths]
        assert not sys.modules.keys() & set(modules), modules
        if mutant is not None:
            sys.meta_path.insert(0, _Planted(modules[0], root / mutant.path, mutant.source))
        options = [
            "-c",
            str(root / "tests/pytest.ini"),
            "--rootdir",
            str(root / "tests"),
            "-x",
            "-p",
            "no:cacheprovider",
        ]
        chosen = [str(root / "tests" / test) for test in tests]
        code = int(pytest.main([*options, "-m", "not slow and not vllm", *chosen]))
        if code == 0 and (missing := set(modules) - sys.modules.keys()):
            code = 98
            sys.stdout.write(f"no test imports {', '.join(missing)}\n")
    finally:
        sys.stdout.flush()
        os._exit(code)
