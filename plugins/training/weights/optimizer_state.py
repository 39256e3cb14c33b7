"""AdamW's state under DeepSpeed is saved and loaded by parameter and in full.

ZeRO keeps it in flat partitions, one share per rank. In full it can be read on another number of ranks, and in another
ZeRO stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from ....core.errors import RunError

STATES = ("exp_avg", "exp_avg_sq")


@attrs.frozen
class ParameterGroup:
    """A parameter group has one base learning rate."""

    lr: float
    """Base learning rate."""
    names: list[str]
    """Names of its parameters."""


def parameter_groups(module: torch.nn.Module, lr: float, own_lr: Mapping[str, float]) -> list[ParameterGroup]:
    """Group the parameters that train by learning rate: ``lr``, or that of ``own_lr`` by the beginning of the name."""
    groups = {start: ParameterGroup(rate, []) for start, rate in {"": lr, **own_lr}.items()}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            start = next((start for start in own_lr if name.startswith(start)), "")
            groups[start].names.append(name)
    return list(groups.values())


class OptimizerState:
    """The state of an AdamW that DeepSpeed's engine steps; every method runs on all ranks."""

    def __init__(
        self,
        engine: Any,
        adamw: torch.optim.AdamW,
        groups: Sequence[ParameterGroup],
        stage: int,
        parameters: Mapping[str, torch.nn.Parameter],
        device: torch.device,
    ) -> None:
        self.engine = engine
        self.adamw = adamw
        self.groups = groups
        self.stage = stage
        self.parameters = parameters
        self.device = device

    def full(self, *, live: bool = False) -> dict[str, Any]:
        """Return ``{state: {name: {step, exp_avg, exp_avg_sq}}, param_groups, master}``, full tensors on the CPU.

        ``param_groups`` hold base learning rates and names; ``master`` the fp32 weights behind a bf16 model.

        Args:
            live: leave the tensors where they are, which may be the optimizer's own.
        """
        inner = self.adamw.param_groups[0]
        state = {name: self._state_of(name, p, live) for name, p in self.parameters.items()}
        settings = {key: inner[key] for key in ("betas", "eps", "weight_decay")}
        return {
            "state": {name: values for name, values in state.items() if values},
            "param_groups": [{"lr": group.lr, **settings, "params": list(group.names)} for group in self.groups],
            "master": dict(self.masters(live=live)),
        }

    def masters(self, *, live: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Yield the fp32 weights behind each parameter of 16 bits with its name, in full on the CPU, or where it is."""
        return ((name, self._master(p, live)) for name, p in self.parameters.items() if p.dtype != torch.float32)

    def load(self, saved: dict[str, Any]) -> None:
        """Load a saved state. Raises RunError if it does not cover exactly the parameters that train."""
        saved_names = {name for group in saved["param_groups"] for name in group["params"]}
        missing = saved_names ^ set(self.parameters)
        if missing:
            raise RunError(
                f"the saved optimizer state and the model disagree on {len(missing)} parameters, e.g. {min(missing)}",
                "optimizer.pt",
                "resume with the model and adapter settings that wrote the checkpoint",
            )
        if not saved["state"]:
            return
        if self.stage > 0:
            steps = {name: values["step"] for name, values in saved["state"].items()}
            self.create([steps.get(group.names[0], torch.tensor(0.0)) for group in self.groups])
        for name, values in saved["state"].items():
            self._load_state(self.parameters[name], values, saved["master"].get(name))

    def create(self, steps: Sequence[Tensor]) -> None:
        """Create states of zeros, with a count of steps for each group: ZeRO would create them in the first step."""
        for group, step in zip(self.groups, steps, strict=True):
            for flat in self._flats(group.names[0]):
                # tensors that exist are kept, because ZeRO may hold references to them
                moments = self.adamw.state.get(flat) or {key: torch.zeros_like(flat) for key in STATES}
                # a fused step wants the count on the device of the moments
                self.adamw.state[flat] = {**moments, "step": step.to(flat.device, copy=True)}
        if hasattr(self.engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _flats(self, name: str) -> list[Tensor]:
        """List the tensors that AdamW steps for the parameter group of ``name``; they have one count of steps."""
        index = next(index for index, group in enumerate(self.groups) if name in group.names)
        if self.stage < 3:
            return list(self.adamw.param_groups[index]["params"])
        zero = self.engine.optimizer
        partitions = enumerate(zero.fp32_partitioned_groups_flat)
        return [flat for part, flat in partitions if zero.sub_group_to_group_id[part] == index]

    def _state_of(self, name: str, parameter: torch.nn.Parameter, live: bool) -> dict[str, Tensor]:
        """Gather the state of one parameter; empty before the first step."""
        from deepspeed.utils import safe_get_full_optimizer_state

        if self.stage == 0 and parameter.dtype == torch.float32:
            own = {key: value.detach() for key, value in self.adamw.state.get(parameter, {}).items()}
            return own if live else {key: value.cpu().clone() for key, value in own.items()}
        states = [self.adamw.state[flat] for flat in self._flats(name) if self.adamw.state.get(flat)]
        if not states:
            return {}
        moments = {key: _at(safe_get_full_optimizer_state(parameter, key), live) for key in STATES}
        return {"step": states[0]["step"].cpu().clone(), **moments}

    def _master(self, parameter: torch.nn.Parameter, live: bool) -> Tensor:
        """Gather the fp32 weights behind a parameter of 16 bits."""
        from deepspeed.utils import safe_get_full_fp32_param

        return _at(safe_get_full_fp32_param(parameter), live)

    def _load_state(self, parameter: torch.nn.Parameter, values: dict[str, Tensor], master: Tensor | None) -> None:
        """Load the state of one parameter, and its fp32 weights."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if self.stage == 0 and parameter.dtype == torch.float32:
            self.adamw.state[parameter] = {key: value.to(parameter.device, copy=True) for key, value in values.items()}
            return
        for key in STATES:
            if self.stage == 3:
                self._set_shard(parameter, values[key], key)
            else:
                safe_set_full_optimizer_state(parameter, values[key].to(self.device), key)
        if master is not None and self.stage == 3:
            self._set_shard(parameter, master)
        elif master is not None:
            safe_set_full_fp32_param(parameter, master.to(self.device))

    def _set_shard(self, parameter: torch.nn.Parameter, value: Tensor, key: str | None = None) -> None:
        """Copy the part that this rank holds of a state, or of the fp32 weights (without ``key``).

        The last part may be shorter than the others, or empty. DeepSpeed's own function fails there, since it expects
        parts of one size.
        """
        zero = self.engine.optimizer
        shard, group = zero._get_fp32_opt_state_partition(parameter, release_swap_buffers=False, optim_state_key=key)
        start = zero._get_param_partition_rank(parameter) * len(shard)
        part = value.flatten()[start : start + len(shard)]
        shard.data[: len(part)].copy_(part)
        if zero._swappable_optimizer_subgroup(group):
            zero._optimizer_states_and_gradient_swap_out(group)


def _at(tensor: Tensor, live: bool) -> Tensor:
    """Return the tensor where it is, or on the CPU."""
    return tensor if live else tensor.cpu()
