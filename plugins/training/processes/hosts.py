"""A run on several machines needs a hostfile in DeepSpeed's format, and hosts that can be reached."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import attrs

from ....core.errors import RequestError
from ....core.paths import read_text

LINE = re.compile(r"([A-Za-z0-9][\w.-]{0,252})\s+slots=([0-9]{1,4})\s*(?:#.*)?")
LOCAL = frozenset({"localhost", "127.0.0.1"})
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")
PATIENCE_S = 30
"""Seconds that a host may take to answer once it is connected."""


@attrs.frozen
class Host:
    """A host is a machine that takes part in a run, with its GPUs 0 to ``slots - 1``."""

    name: str
    """Name by which ssh knows the machine."""
    slots: int
    """Number of processes (GPUs) that it is given."""


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """Read lines of ``host slots=N``; empty lines and those that begin with # are left out.

    Raises:
        RequestError: the file is missing or has no host, or a line is bad, gives no slots, or a host again.
    """
    if not path.is_file():
        raise RequestError("there is no such hostfile", str(path), "give a file with a line `host slots=N` per machine")
    hosts: dict[str, Host] = {}
    for number, line in enumerate(read_text(path, errors="replace").splitlines(), start=1):
        text = line.strip()
        where = f"{path}, line {number}"
        if not text or text.startswith("#"):
            continue
        match = LINE.fullmatch(text)
        if match is None:
            fix = "write `host slots=N`; user names and ports belong in ~/.ssh/config"
            raise RequestError(f"the line is not understood: {text[:80]!r}", where, fix)
        host = Host(match[1], int(match[2]))
        if host.slots == 0:
            raise RequestError(f"{host.name} has no slots", where, "give it at least one, or take the line out")
        if host.name in hosts:
            raise RequestError(f"{host.name} is there twice", where, "give each host one line with all of its slots")
        hosts[host.name] = host
    if not hosts:
        raise RequestError("the hostfile names no host", str(path), "add a line `host slots=N` per machine")
    return tuple(hosts.values())


def first_slots(hosts: Sequence[Host], ranks: int | None, path: Path) -> tuple[Host, ...]:
    """Return the hosts of the first ``ranks`` slots, in the order of the file; all hosts if ``ranks`` is ``None``.

    Raises:
        RequestError: there are fewer slots.
    """
    total = sum(host.slots for host in hosts)
    left = total if ranks is None else ranks
    if left > total:
        slots_text = f"{total} slot{'s' if total > 1 else ''}"
        reason = f"--ranks {ranks} is more than the {slots_text} of the hostfile"
        raise RequestError(reason, str(path), "add hosts or slots")
    taken = []
    for host in hosts:
        slots = min(left, host.slots)
        left -= slots
        if slots:
            taken.append(Host(host.name, slots))
    return tuple(taken)


def only_here(hosts: Sequence[Host]) -> bool:
    """Say whether this machine is the only one, so that no login is needed."""
    return len(hosts) == 1 and hosts[0].name in LOCAL


def check_reachable(hosts: Sequence[Host], path: Path) -> None:
    """Log in to every host at the same time, to this machine as well, because the launcher does so too.

    Raises:
        RequestError: a host does not let us in without a password, or this machine has no ssh or pdsh.
    """
    for tool, what in (("ssh", "an ssh client"), ("pdsh", "pdsh, with which DeepSpeed starts processes over ssh")):
        if shutil.which(tool) is None:
            raise RequestError(f"several machines need {what}", "not found in PATH", f"install {tool} on this machine")
    # started together and asked afterwards, so that hosts without an answer are waited for once, not one by one
    logins = {
        host.name: subprocess.Popen(
            [*SSH, host.name, "true"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for host in hosts
    }
    reasons = {name: _failure(login) for name, login in logins.items()}
    failed = {name: reason for name, reason in reasons.items() if reason}
    if failed:
        name = next(iter(failed))
        raise RequestError(
            "; ".join(f"cannot log in to {host}: {reason}" for host, reason in failed.items()),
            str(path),
            f"try `ssh -o BatchMode=yes {name} true`: it must work without a password (ssh-copy-id {name})",
        )


def _failure(process: subprocess.Popen[bytes]) -> str:
    """Say why ssh could not log in; empty if it could."""
    try:
        _, errors = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"no answer within {PATIENCE_S} s"
    if process.returncode == 0:
        return ""
    lines = errors.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"ssh ended with {process.returncode}"
