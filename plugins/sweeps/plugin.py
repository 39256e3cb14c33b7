"""Registers the sweeps ``demo``, ``interventions`` and ``custom``, and the commands ``sweep``,
``report`` and ``transcripts``.
"""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl

SWEEPS = "uncollapse.plugins.sweeps"


@hookimpl
def register_sweeps(register: Register) -> None:
    register("demo", f"{SWEEPS}:demo.yaml", summary="reward-variance filtering x KL on tiny Sokoban")
    register("interventions", f"{SWEEPS}.interventions:Interventions", summary="every remedy beside the same baseline")
    register("custom", f"{SWEEPS}.custom:Custom", summary="any axes over any experiment")


@hookimpl
def register_commands(register: Register) -> None:
    register("sweep", f"{SWEEPS}.commands.command:command", summary="Run, resume and report sweeps.")
    summary = "Compare runs of sweeps and single runs; what goes with success."
    register("report", f"{SWEEPS}.commands.report:command", summary=summary)
    summary = "Show episodes of a run, with their calls and results."
    register("transcripts", f"{SWEEPS}.commands.transcripts:command", summary=summary)
