"""A run of several processes starts its own command again on every rank: here, or on several machines by DeepSpeed."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ....core.compose.combinations import check_ranks
from ....core.console.exit_codes import ending
from ....core.console.streams import say
from ....core.errors import RESUME, RequestError
from ....core.runs.directory import RunDirectory
from ....core.runs.status import Status
from .hosts import Host, check_reachable, first_slots, only_here, read_hostfile
from .place import read_place
from .quiet import quiet_libraries
from .rank_processes import LAUNCHER, free_port, run_ranks

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment

PER_CORE = 8
"""Largest number of processes that share a core; each holds the libraries and the models."""
WRITTEN = (0, 2, 3)
"""Exit codes of processes that have written how the run ended, or refused to begin, on all ranks alike."""
INTERRUPTED = 130
SEVERAL_HOSTS = "deepspeed"
"""Value of :data:`LAUNCHER` on the ranks of several machines, which no process of ours has started."""


def relaunch(ranks: int, run_dir: Path | None = None) -> None:
    """Run this same command on every rank, in a process each, and exit as they did.

    A process that a launcher has started does nothing here. Rank i uses the i-th visible GPU. If one rank is killed or
    fails alone, the status of the run in ``run_dir`` says so.

    Raises:
        RequestError: there are too many ranks for this machine, or a launcher has started another number of them.
        SystemExit: all ranks have ended; it carries their exit code.
    """
    if "RANK" in os.environ:
        _check_launched(ranks)
    elif ranks > 1:
        check_gpus(ranks)
        code = run_ranks([sys.executable, "-u", "-m", "uncollapse.cli.main", *sys.argv[1:]], ranks)
        if run_dir is not None and code not in WRITTEN:
            _record_failure(run_dir, code)
        raise SystemExit(code)


def _record_failure(run_dir: Path, code: int) -> None:
    """Write the status of a run that ended without it: rank 0 was killed, or another one was, unknown to rank 0."""
    interrupted = code == INTERRUPTED
    killed = code > 128 and not interrupted
    if interrupted:
        reason = "one of the run's processes was asked to stop before the others could know"
    else:
        reason = f"one of the run's processes {ending(code)}" + ("" if killed else "; its error is in the output")
    # a process that failed has printed its own error
    if killed:
        fix = f"continue from the last checkpoint with {RESUME}"
        say(f"error: {reason}\n  where: {run_dir}\n  fix:   {fix}")
    # after a kill, another rank may have written "failed" because it lost that one: the reason here is the better one
    replaced = (Status.RUNNING, Status.FAILED) if killed else (Status.RUNNING,)
    # there may be no run yet
    with suppress(RequestError, OSError):
        run = RunDirectory.open(run_dir)
        with run.hold():
            if run.status().get("status") in replaced:
                run.set_status(Status.INTERRUPTED if interrupted else Status.FAILED, error=reason)


def relaunch_on(hostfile: Path, ranks: int | None, experiment: Experiment, run_dir: Path | None = None) -> None:
    """Run this same command on the first ``ranks`` slots of a hostfile. Without other machines, ssh is not used.

    Raises:
        RequestError: the hostfile is wrong, the experiment cannot be divided among that many processes, or a host
            cannot be reached; nothing was started.
    """
    # this is a rank, on a machine that may have no copy of the hostfile
    if os.environ.get(LAUNCHER) == SEVERAL_HOSTS:
        return
    hosts = first_slots(read_hostfile(hostfile), ranks, hostfile)
    if "RANK" in os.environ:
        _check_launched(sum(host.slots for host in hosts))
        return
    check_ranks(experiment, sum(host.slots for host in hosts))
    if only_here(hosts):
        relaunch(hosts[0].slots, run_dir)
    check_reachable(hosts, hostfile)
    quiet_libraries()
    os.execv(sys.executable, hosts_command(sys.argv[1:], hosts, hostfile))


def _check_launched(ranks: int) -> None:
    """Refuse another number of ranks than the environment variables say.

    RANK may be left from an earlier launch in the same shell or notebook; one process would then train alone.
    """
    size = read_place().size
    if size != ranks:
        raise RequestError(
            f"{ranks} ranks are asked for, and the environment variables RANK and WORLD_SIZE say that a launcher has "
            f"started {size}",
            "--ranks",
            "unset RANK, LOCAL_RANK and WORLD_SIZE, or, under a launcher, leave the option out",
        )


def check_gpus(ranks: int) -> None:
    """Raise RequestError if there are GPUs, but fewer than ranks; or no GPU, and far more ranks than cores."""
    import torch

    gpus = torch.cuda.device_count()
    cores = os.cpu_count() or 1
    if not gpus and ranks > PER_CORE * cores:
        raise RequestError(
            f"there are {cores} cores for {ranks} ranks", "--ranks", f"at most {PER_CORE * cores} without a GPU"
        )
    if gpus and gpus < ranks:
        raise RequestError(
            f"there are {gpus} GPUs for {ranks} ranks", "--ranks", f"at most {gpus}, or more CUDA_VISIBLE_DEVICES"
        )


def hosts_command(arguments: Sequence[str], hosts: Sequence[Host], hostfile: Path) -> list[str]:
    """Make the command that runs ``uncollapse ARGUMENTS`` on every rank of several hosts.

    It uses DeepSpeed's multi-node runner and pdsh. The runner asks the first host for its address, where rank 0 waits
    for the others.
    """
    slots = "@".join(f"{host.name}:{','.join(map(str, range(host.slots)))}" for host in hosts)
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={hostfile.resolve()}", f"--include={slots}"),
        *("--launcher=pdsh", "--force_multi", "--no_ssh_check", f"--master_port={free_port()}"),
        *("--no_local_rank", "--log_level=error", "--module", "uncollapse.cli.on_rank"),
        pack(arguments, os.environ),
    ]


def pack(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Encode arguments and our environment variables as one word, which no shell between the machines changes."""
    ours = {name: value for name, value in environment.items() if name.startswith("UNCOLLAPSE_")}
    return base64.urlsafe_b64encode(json.dumps([list(arguments), ours]).encode()).decode()


def unpack(word: str) -> tuple[list[str], dict[str, str]]:
    """Decode what :func:`pack` was given: arguments and environment variables."""
    arguments, environment = json.loads(base64.urlsafe_b64decode(word))
    return arguments, environment
