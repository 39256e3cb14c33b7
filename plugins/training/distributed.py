"""Several processes for one run, on this machine: the same command again, under DeepSpeed's launcher."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from collections.abc import Sequence

from .quiet import quiet_libraries


def relaunch(ranks: int) -> None:
    """Replace this process by DeepSpeed's launcher, which runs this very command on every rank.

    Does nothing in a process that a launcher has started. Rank i uses the i-th visible GPU.
    """
    if "RANK" not in os.environ:
        quiet_libraries()  # the launcher too, whose warnings go to standard output
        os.execv(sys.executable, launch_command(sys.argv[1:], ranks))


def launch_command(arguments: Sequence[str], ranks: int) -> list[str]:
    """``uncollapse ARGUMENTS`` on every rank."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = [int(device) if device.isdecimal() else device for device in visible.split(",") if device]
    world = base64.urlsafe_b64encode(json.dumps({"localhost": (devices or list(range(ranks)))[:ranks]}).encode())
    return [
        *(sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world.decode()}"),
        *("--master_addr=127.0.0.1", f"--master_port={free_port()}", "--no_local_rank", "--log_level=error"),
        *("--module", "uncollapse.cli.main", *arguments),
    ]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
