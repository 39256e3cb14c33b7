"""A process runs Python code of a model, is watched while it does, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import site
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from ....core.errors import RunError
from .system_calls import call_filter

MOST_OUTPUT = 2**20
"""Largest number of bytes that a program may print."""
FILE_MB, FOLDER_MB, FOLDER_FILES = 16, 64, 1000
"""Largest size of a file in MB; of all files of the folder together, and their largest number."""
_START_S = 120.0
"""Seconds that the process may take to start, on a machine that may be very busy."""
_TICK_S = 0.2
"""Seconds between two looks at the size of the folder."""
_WORKER = Path(__file__).with_name("python_worker.py")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo")
_DEVICES = ("/dev/urandom", "/dev/random", "/dev/zero")


@attrs.frozen
class Limits:
    """What a program may use."""

    wait_s: float
    """Longest time in seconds."""
    cpu_s: int
    """Most seconds of processor time in the life of the process; 0 for no limit."""
    memory_mb: int
    """Largest address space in MB."""
    packages: bool
    """Whether the packages can be imported that are installed beside Python's own."""
    isolated: bool
    """Whether it can reach no file outside of its folder, no network and no other process."""


class PythonProcess:
    """A process with a temporary folder of its own, which runs one program after another.

    Raises:
        RunError: it cannot be started, or not shut in.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.folder = tempfile.mkdtemp(prefix="python-")
        self._remove = weakref.finalize(self, _remove_own, self.folder, os.getpid())
        control, theirs = os.pipe()
        self._control: int | None = control
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = _spawner(os.getpid()).submit(_spawn, self.folder, theirs).result()
            self._begin(theirs)
        except BaseException:
            self.end()
            raise
        finally:
            os.close(theirs)

    @property
    def alive(self) -> bool:
        """Whether another program can be run."""
        return self._control is not None

    def run(self, code: str) -> str:
        """Run a program; return what it printed, and why it was ended, if it was. A process that was ended is gone."""
        text = code.encode("utf-8", "replace")
        printed, ending = self._watch(struct.pack("<I", len(text)) + text)
        if ending:
            ending = self._ended(ending)
        lines = printed.decode("utf-8", "replace").strip("\n")
        return "\n".join(filter(None, (lines, ending))) or "(nothing was printed)"

    def end(self) -> None:
        """End the process and remove its folder."""
        if self._control is None:
            return
        os.close(self._control)
        self._control = None
        if self._process is not None:
            with suppress(OSError):  # its group holds what it has started, where it may start something
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        self._remove()

    def _begin(self, control: int) -> None:
        """Send the settings, and wait until the process has shut itself in."""
        limits = self.limits
        instructions = call_filter() if limits.isolated else b""
        if instructions is None:
            raise _failed("the system calls of this kind of machine are not known")
        settings = {
            "control": control,
            "parent": os.getpid(),
            "folder": self.folder,
            "path": _import_path(limits.packages),
            "readable": [*_import_path(limits.packages), f"{sys.base_prefix}/lib", *_LIBRARIES, *_DEVICES],
            "filter": instructions.hex(),
            "file_mb": FILE_MB,
            **attrs.asdict(limits),
        }
        printed, ending = self._watch(json.dumps(settings).encode() + b"\n", ready=b"r", wait_s=_START_S)
        if ending:
            raise _failed(ending if ending[0] != "x" else ending[1:], printed)

    def _watch(self, send: bytes, ready: bytes = b"d", wait_s: float | None = None) -> tuple[bytes, str]:
        """Send something, and read what is printed until the process is ready again.

        Returns:
            what was printed, and an ending: empty if the process is ready; ``wait``, ``output`` or ``folder`` where it
            passed that limit; ``gone`` where it has ended; or what else it wrote to the control pipe.
        """
        process = self._process
        assert process and process.stdin and process.stdout and self._control is not None
        requests, output = process.stdin.fileno(), process.stdout.fileno()
        deadline = time.monotonic() + (self.limits.wait_s if wait_s is None else wait_s)
        printed, looked_at = bytearray(), time.monotonic()
        with selectors.DefaultSelector() as pipes:
            pipes.register(output, selectors.EVENT_READ)
            pipes.register(self._control, selectors.EVENT_READ)
            pipes.register(requests, selectors.EVENT_WRITE)
            while (left := deadline - time.monotonic()) > 0:
                ready_pipes = {key.fd for key, _ in pipes.select(min(left, _TICK_S))}
                if output in ready_pipes and not _read_into(printed, output):
                    pipes.unregister(output)
                if len(printed) > MOST_OUTPUT:
                    return bytes(printed[:MOST_OUTPUT]), "output"
                if requests in ready_pipes:
                    send = send[_write(requests, send) :]
                    if not send:
                        pipes.unregister(requests)
                if self._control in ready_pipes:
                    said = os.read(self._control, 2**12)
                    while len(printed) <= MOST_OUTPUT and _read_into(printed, output):
                        continue
                    if len(printed) > MOST_OUTPUT:
                        return bytes(printed[:MOST_OUTPUT]), "output"
                    return bytes(printed), "" if said == ready else said.decode("utf-8", "replace") or "gone"
                if time.monotonic() > looked_at + _TICK_S:
                    looked_at = time.monotonic()
                    if _is_full(self.folder):
                        return bytes(printed), "folder"
        return bytes(printed), "wait"

    def _ended(self, ending: str) -> str:
        """End the process, and say why in words."""
        assert self._process is not None
        self.end()
        code = self._process.returncode
        if ending == "wait":
            return f"Error: the program was ended, since it took longer than {self.limits.wait_s:g} seconds"
        if ending == "output":
            return f"Error: the program was ended, since it printed more than {MOST_OUTPUT} bytes"
        if ending == "folder":
            return f"Error: the program was ended, since it wrote more than {FOLDER_MB} MB or {FOLDER_FILES} files"
        if code == -signal.SIGXCPU:
            most = f"{self.limits.cpu_s} seconds of processor time"
            return f"Error: the program was ended, since it used more than {most}"
        if code < 0:
            return f"Error: the program was ended by the signal {signal.Signals(-code).name}"
        return f"Error: the program has ended its process, with the exit code {code}"


@cache
def obstacle(packages: bool) -> str:
    """Return the reason why programs cannot be shut in on this machine; empty if they can. It is tried out."""
    if sys.platform != "linux":
        return "it does not run Linux"
    with tempfile.NamedTemporaryFile() as outside:
        try:
            process = PythonProcess(Limits(_START_S, 0, 1024, packages, isolated=True))
        except RunError as error:
            return error.what
        try:
            said = process.run(_ATTEMPTS.format(outside.name))
        finally:
            process.end()
    return "" if said == "[]" else f"this is not kept from a program: {said}"


_ATTEMPTS = """
import os, socket
done = []
for name, attempt in (
    ("to open files", lambda: open({!r})),
    ("to connect", socket.socket),
    ("to start processes", lambda: os.fork() or os._exit(0)),
    ("to send signals", lambda: os.kill(os.getppid(), 0)),
):
    try:
        attempt()
        done.append(name)
    except PermissionError:
        pass
done
"""


def _spawn(folder: str, control: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-s", "-S", "-B", "-u", str(_WORKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        pass_fds=(control,),
        start_new_session=True,
        env={
            "HOME": folder,
            "TMPDIR": folder,
            "PATH": "",
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            # the same program prints the same, whatever it iterates over
            "PYTHONUTF8": "1",
            "PYTHONIOENCODING": "utf-8:backslashreplace",
            "PYTHONHASHSEED": "0",
        },
    )
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        os.set_blocking(pipe.fileno(), False)
    return process


@cache
def _spawner(process: int) -> ThreadPoolExecutor:
    """Return a thread that starts processes and stays: a process is ended with the thread that has started it."""
    return ThreadPoolExecutor(1, "python tool")


@cache
def _import_path(packages: bool) -> list[str]:
    paths = sysconfig.get_paths()
    own = [paths["stdlib"], f"{paths['stdlib']}/lib-dynload", str(sysconfig.get_config_var("DESTSHARED"))]
    more = [paths["purelib"], paths["platlib"], *site.getsitepackages()] if packages else []
    return list(dict.fromkeys([*own, *more]))


def _read_into(printed: bytearray, pipe: int) -> bool:
    """Read what there is; say whether there was something."""
    try:
        more = os.read(pipe, 2**16)
    except BlockingIOError:
        return False
    printed += more
    return bool(more)


def _write(pipe: int, text: bytes) -> int:
    """Write as much as there is room for; say how much that was. A process that is gone takes all."""
    try:
        return os.write(pipe, text)
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(text)


def _is_full(folder: str) -> bool:
    """Say whether a folder holds too much."""
    size, count = 0, 0
    for place, folders, files in os.walk(folder):
        count += len(folders) + len(files)
        for name in files:
            with suppress(OSError):
                size += Path(place, name).lstat().st_blocks * 512
        if count > FOLDER_FILES or size > FOLDER_MB << 20:
            return True
    return False


def _remove_own(folder: str, process: int) -> None:
    """Remove a folder in the process that has made it: a fork of it has the folder's name, too."""
    if os.getpid() == process:
        _remove(folder)


def _remove(folder: str) -> None:
    """Remove a folder, even if it is locked or holds folders that are, and whatever a program has put in its place."""

    def unlock(function: Callable[..., Any], path: str, error: object) -> None:
        place = Path(path)
        with suppress(OSError):
            # never the folder that it stands in, which is everybody's
            if place != Path(folder):
                place.parent.chmod(0o700)
            if place.is_symlink() or not place.is_dir():
                place.unlink()
                return
            place.chmod(0o700)
            shutil.rmtree(place, onerror=unlock if os.access(place, os.R_OK | os.W_OK | os.X_OK) else None)

    shutil.rmtree(folder, onerror=unlock)


def _failed(reason: str, printed: bytes = b"") -> RunError:
    where = printed.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return RunError(f"a process for Python code cannot be started: {reason}", where)
