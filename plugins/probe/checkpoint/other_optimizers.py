"""The names of optimizers whose state is not AdamW's, from what only they save."""

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
"""A key of a parameter's state -> the optimizer that has it, the more telling ones first."""
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
"""A key of a parameter group -> the optimizer that has it."""


def other_optimizer(saved: Mapping[str, Any]) -> str | None:
    """What wrote the state, if it was another optimizer than AdamW and can be told from it."""
    for state in saved["state"].values():
        if isinstance(state, dict) and (found := next((name for key, name in BY_STATE.items() if key in state), None)):
            return found
    for group in saved["param_groups"]:
        if found := next((BY_GROUP[key] for key in group if key in BY_GROUP), None):
            return found
        # torch's RAdam keeps the moments of Adam, and has neither of these
        if "decoupled_weight_decay" in group and "foreach" in group and not group.keys() & {"amsgrad", "fused"}:
            return "RAdam"
    states = [state for state in saved["state"].values() if isinstance(state, dict) and state]
    if states and all(state.keys() == {"exp_avg"} for state in states):
        return "Lion"
    return None
