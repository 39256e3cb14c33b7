"""The plugin registers the sweeps of RAGEN-2's scripts, and its way to write a point of a sweep."""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl

RAGEN = "uncollapse.plugins.ragen"


@hookimpl
def register_sweeps(register: Register) -> None:
    register("top-p", f"{RAGEN}.interventions:TopPSweep", summary="strength of reward-variance filtering (RAGEN-2)")
    register("kl", f"{RAGEN}.interventions:KlSweep", summary="strength of KL regularisation (RAGEN-2)")
    register("entropy", f"{RAGEN}.interventions:EntropySweep", summary="strength of the entropy bonus (RAGEN-2)")
    register("smoke", f"{RAGEN}.smoke:Smoke", summary="KL x entropy x filter in five groups (RAGEN-2)")
    register("smoke-all", f"{RAGEN}.smoke:SmokeAll", summary="the smoke test for three KL estimates: 164 runs")


@hookimpl
def register_dialects(register: Register) -> None:
    register("ragen", f"{RAGEN}.keys:Ragen", summary="dotted keys and words for RAGEN-2's train.py")
