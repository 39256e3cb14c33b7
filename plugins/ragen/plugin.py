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
    register("main-table", f"{RAGEN}.main_table:MainTable", summary="algorithms x filter (RAGEN-2, table 4)")
    register("budget", f"{RAGEN}.budget:Budget", summary="groups x group size at equal cost (RAGEN-2, table 5)")
    register("quartiles", f"{RAGEN}.quartiles:Quartiles", summary="quarters by reward variance (RAGEN-2, table 6)")
    register("filters", f"{RAGEN}.filter_levels:FilterLevels", summary="no, group, episode filter (RAGEN-2, table 7)")
    register(
        "diagnosis",
        f"{RAGEN}.diagnosis:Diagnosis",
        summary="what goes with success, MI or entropy (RAGEN-2, figures 5, 8)",
    )
    register("slip", f"{RAGEN}.slip:Slip", summary="random outcomes of actions x filter (RAGEN-2, figure 9)")


@hookimpl
def register_dialects(register: Register) -> None:
    register("ragen", f"{RAGEN}.keys:Ragen", summary="dotted keys and words for RAGEN-2's train.py")
