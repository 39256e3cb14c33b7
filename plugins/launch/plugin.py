"""Registers the built-in launchers."""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl


@hookimpl
def register_launchers(register: Register) -> None:
    register("local", "uncollapse.plugins.launch.local:Local", summary="a queue over the GPUs or cores of this machine")
    register("ray", "uncollapse.plugins.launch.ray:Ray", summary="tasks of a Ray cluster, or of Ray on this machine")
    register("slurm", "uncollapse.plugins.launch.slurm:Slurm", summary="Slurm jobs, submitted through submitit")
