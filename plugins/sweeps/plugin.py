"""The names of the built-in sweeps."""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl

SWEEPS = "uncollapse.plugins.sweeps"


@hookimpl
def register_sweeps(register: Register) -> None:
    register("demo", f"{SWEEPS}:demo.yaml", summary="reward-variance filtering x KL on tiny Sokoban")
    register("custom", f"{SWEEPS}.interventions:Custom", summary="any axes over any experiment")
    register("top-p", f"{SWEEPS}.interventions:TopPSweep", summary="strength of reward-variance filtering (RAGEN-2)")
    register("kl", f"{SWEEPS}.interventions:KlSweep", summary="strength of KL regularisation (RAGEN-2)")
    register("entropy", f"{SWEEPS}.interventions:EntropySweep", summary="strength of the entropy bonus (RAGEN-2)")
    register("smoke", f"{SWEEPS}.smoke:Smoke", summary="KL x entropy x filter in five groups (RAGEN-2)")
    register("smoke-all", f"{SWEEPS}.smoke:SmokeAll", summary="the smoke test for three KL estimates: 164 runs")
