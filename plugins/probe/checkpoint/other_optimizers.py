"""Optimizers whose state is not AdamW's are recognised by keys that only they save."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BY_STATE = {
    "state1": "an 8-bit or paged optimizer of bitsandbytes",
    "exp_avg_sq_row": "Adafactor",
    "exp_avg_sq_col": "Adafactor",
    "row_var": "Adafactor",
    "exp_inf": "Adamax",
    "mu_product": "NAdam",
    "momentum_buffer": "SGD or Muon",
    "acc_delta": "Adadelta",
    "square_avg": "RMSprop",
    "sum": "Adagrad",
    "ax": "ASGD",
    "prev": "Rprop",
    "hessian": "Sophia",
    "z": "schedule-free AdamW",
}
"""Names of optimizers by a key of a parameter's state that they have, the surest first."""
BY_GROUP = {
    "scale_parameter": "Adafactor",
    "momentum_decay": "NAdam",
    "nesterov": "SGD or Muon",
    "momentum": "SGD",
    "rho": "Adadelta",
    "lambd": "ASGD",
    "etas": "Rprop",
    "warmup_steps": "schedule-free AdamW",
    "proj_type": "GaLore",
}
"""Names of optimizers by a key of a parameter group that they have."""


def other_optimizer(saved: Mapping[str, Any]) -> str | None:
    """Return the optimizer that wrote the state, if it is not AdamW and can be told from it."""
    for state in saved["state"].values():
        for key, name in BY_STATE.items():
            if isinstance(state, dict) and key in state:
                return name
    for group in saved["param_groups"]:
        for key in group:
            if key in BY_GROUP:
                return BY_GROUP[key]
        # torch's RAdam keeps the moments of Adam, and has neither of these
        if "decoupled_weight_decay" in group and "foreach" in group and not group.keys() & {"amsgrad", "fused"}:
            return "RAdam"
    states = [state for state in saved["state"].values() if isinstance(state, dict) and state]
    if states and all(state.keys() == {"exp_avg"} for state in states):
        return "Lion"
    return None
