"""The process in which Python code of a model runs. It is started as a script, and needs the standard library alone.

It reads a line of JSON, its settings, shuts itself in, and writes ``r`` to the control pipe, or why it cannot. Then it
runs each program that comes, a length of 4 bytes and the text, and writes ``d`` when it is done.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import io
import json
import linecache
import os
import resource
import signal
import struct
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import Any, BinaryIO

FILE = "<code>"
"""Name of the program in tracebacks."""
_FRAMES, _LONGEST = 5, 2000
"""Largest number of lines of the program in a traceback, and of characters in an error's text."""
_SET_DEATH_SIGNAL, _SET_SECCOMP, _SET_NO_NEW_PRIVILEGES = 1, 22, 38
"""Options of prctl."""
_CREATE_RULESET, _ADD_RULE, _RESTRICT = 444, 445, 446
"""System calls of Landlock, with the same numbers on all machines."""
_WRITE, _READ, _LIST = 1 << 1, 1 << 2, 1 << 3
_EXECUTE, _MAKE_DEVICES = 1 << 0, 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Number of rights to files, by Landlock's version; 16 in newer ones."""


def serve() -> None:
    """Run programs until the input ends."""
    settings = json.loads(sys.stdin.buffer.readline())
    requests, control = os.fdopen(os.dup(0), "rb"), int(settings["control"])
    # a program that reads its input finds it empty
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = open(0)  # noqa: SIM115 - it stays open
    sys.path[:] = settings["path"]
    try:
        shut_in(settings)
    except OSError as error:
        os.write(control, f"x{error}".encode())
        return
    os.write(control, b"r")
    vars(builtins).update(exit=sys.exit, quit=sys.exit)
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
    while (code := _next(requests)) is not None:
        output = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
        sys.stdout = sys.stderr = output
        ending = run(code, names, settings["memory_mb"])
        # the program may have put something else in their place
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        try:
            os.write(1, ending.encode("utf-8", "backslashreplace"))
            os.write(control, b"d")
        except OSError:
            # the program has closed what it cannot be heard without
            os._exit(1)


def _next(requests: BinaryIO) -> str | None:
    head = requests.read(4)
    if len(head) < 4:
        return None
    return requests.read(struct.unpack("<I", head)[0]).decode("utf-8", "replace")


def run(code: str, names: dict[str, Any], memory_mb: int) -> str:
    """Run a program, which prints; return what there is to say at its end: a value, or the end of a traceback."""
    linecache.cache[FILE] = (len(code), None, code.splitlines(keepends=True), FILE)
    try:
        body, last = _compiled(code)
        exec(body, names)
        if last is not None and (value := eval(last, names)) is not None:
            return repr(value)
    except SystemExit as ended:
        return "" if ended.code in (None, 0) else f"SystemExit: {ended.code}"
    except MemoryError:
        return f"MemoryError: a program may use {memory_mb} MB"
    except BaseException as error:
        try:
            return _told(error)
        except BaseException:
            return type(error).__name__
    return ""


def _compiled(code: str) -> tuple[CodeType, CodeType | None]:
    """Compile a program; its last line apart, if that has a value."""
    tree = ast.parse(code, FILE)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        return compile(tree, FILE, "exec", dont_inherit=True), None
    tree.body.pop()
    value = compile(ast.Expression(last.value), FILE, "eval", dont_inherit=True)
    return compile(tree, FILE, "exec", dont_inherit=True), value


def _told(error: BaseException) -> str:
    """Return the lines of the program that an error came through, the innermost last, and what it says."""
    told = traceback.TracebackException.from_exception(error, lookup_lines=False)
    frames = [frame for frame in told.stack if frame.filename == FILE][-_FRAMES:]
    lines = [f'  File "{FILE}", line {frame.lineno}, in {frame.name}\n    {frame.line}\n' for frame in frames]
    said = "".join(told.format_exception_only())
    if len(said) > _LONGEST:
        said = f"{said[:_LONGEST]} ..."
    head = ["Traceback (most recent call last):\n"] if frames else []
    return "".join([*head, *lines, said]).rstrip("\n")


# --- what the process may do ----------------------------------------------------------------------------------------


def shut_in(settings: dict[str, Any]) -> None:
    """Give up whatever a program does not need. Raises OSError with the reason if the kernel refuses."""
    system = ctypes.CDLL(None, use_errno=True)
    _limit(settings)
    if sys.platform == "linux":
        _check(system.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "prctl")
        if os.getppid() != settings["parent"]:
            raise OSError("the process that started this one has ended")
    if not settings["isolated"]:
        return
    _check(system.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    _close_files(system, settings["readable"], settings["folder"])
    _drop_capabilities(system)
    _filter_calls(system, bytes.fromhex(settings["filter"]))


def _limit(settings: dict[str, Any]) -> None:
    cpu, memory, size = settings["cpu_s"], settings["memory_mb"] << 20, settings["file_mb"] << 20
    limits = {resource.RLIMIT_AS: memory, resource.RLIMIT_FSIZE: size, resource.RLIMIT_NOFILE: 64}
    limits[resource.RLIMIT_CORE] = 0
    if cpu:
        limits[resource.RLIMIT_CPU] = cpu
    for which, most in limits.items():
        # the lower limit of processor time is told by a signal of its own
        pair = (most, most + 1 if which == resource.RLIMIT_CPU else most)
        highest = resource.getrlimit(which)[1]
        if highest != resource.RLIM_INFINITY:
            pair = (min(pair[0], highest), min(pair[1], highest))
        resource.setrlimit(which, pair)
    # a file that grows too large raises OSError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)


def _close_files(system: Any, readable: list[str], folder: str) -> None:
    """Let the process read some folders, write one, and open nothing else (Landlock)."""
    version = system.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    _check(version, "Landlock, which this kernel does not have or does not allow")
    every = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    # files; connections and listening by TCP; signals to others and abstract sockets of theirs
    handled = struct.pack("QQQ", every, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    handled = handled[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = system.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    _check(rules, "Landlock")
    for path in readable:
        _allow(system, rules, path, _READ | _LIST)
    _allow(system, rules, os.devnull, _READ | _WRITE)
    _allow(system, rules, folder, every & ~_EXECUTE & ~_MAKE_DEVICES)
    _check(system.syscall(_RESTRICT, rules, 0), "Landlock")
    os.close(rules)


def _allow(system: Any, rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        # what is not there need not be read
        return
    if not Path(path).is_dir():
        rights &= ~_LIST
    rule = struct.pack("=Qi", rights, place)
    _check(system.syscall(_ADD_RULE, rules, 1, rule, 0), "Landlock")
    os.close(place)


def _drop_capabilities(system: Any) -> None:
    """Give up what a superuser may do beyond others."""
    header, none = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
    _check(system.capset(header, none), "capset")


def _filter_calls(system: Any, instructions: bytes) -> None:
    """Let the kernel refuse some system calls (seccomp)."""
    held = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("HxxxxxxP", len(instructions) // 8, ctypes.addressof(held))
    _check(system.prctl(_SET_SECCOMP, 2, program, 0, 0), "seccomp, which this kernel does not have or does not allow")


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    serve()
