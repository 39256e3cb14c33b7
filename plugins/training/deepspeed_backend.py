"""The ``deepspeed`` backend trains with ZeRO 0-3 under one small interface.

DeepSpeed averages gradients over ranks; our losses are already shares of one sum over all ranks, so each is
multiplied by the number of ranks. We decide where accumulation ends (``managed_gradient_accumulation: false``): every
micro-batch of an optimizer step is accumulated, then one ``step()`` follows, however many micro-batches there were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from ...core.components import Scores, TrainBackend, TrainEngine
from ...core.errors import RequestError, RunError
from .processes import local_rank
from .processes.ranks import Ranks
from .step.batch import Batch
from .weights.optimizer_state import OptimizerState, ParameterGroup, parameter_groups
from .zero import offload_settings, stage_in_effect

if TYPE_CHECKING:
    from ...core.compose.experiment import Critic, Experiment, Trainer

Loss = Callable[[Scores, Batch], tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]]
OURS = {
    "zero_optimization.stage": "trainer.zero_stage",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "optimizer": "trainer.lr, trainer.betas and trainer.weight_decay",
    "scheduler": "trainer.lr_schedule",
    "gradient_clipping": "trainer.grad_clip",
    "train_batch_size": "trainer.mini_batch",
    "train_micro_batch_size_per_gpu": "trainer.micro_batch",
    "gradient_accumulation_steps": "trainer.micro_batch",
    "managed_gradient_accumulation": "trainer.micro_batch",
}
"""Settings of DeepSpeed that follow from the experiment, with the keys that they follow from."""


@attrs.frozen
class DeepSpeed(TrainBackend):
    """Train with DeepSpeed: ZeRO stage from ``trainer.zero_stage``, AdamW, fp32 master weights under bfloat16."""

    config: dict[str, Any] = attrs.field(factory=dict)
    """Further DeepSpeed settings, by its own JSON keys, which are merged over ours."""

    def check(self, experiment: Experiment) -> Iterator[str]:
        """Yield the reasons why this backend cannot train the experiment."""
        if experiment.model.dtype == "bfloat16" and experiment.trainer.zero_stage == 0:
            yield "ZeRO 0 hides the fp32 master weights of a bfloat16 model; set trainer.zero_stage to 1 or more"
        zero = self.config.get("zero_optimization", {})
        if not isinstance(zero, Mapping):
            yield f"config sets zero_optimization to {zero!r}, which is no section"
            return
        for name in (*self.config, *(f"zero_optimization.{key}" for key in zero)):
            if name in OURS:
                yield f"config sets {name}, which follows from {OURS[name]}; set that instead"
        offload = experiment.trainer.offload
        least_stage = {"none": 0, "optimizer": 1, "all": 3}[offload]
        if experiment.trainer.zero_stage < least_stage:
            yield f"trainer.offload {offload} needs trainer.zero_stage {least_stage} or more"

    def start(
        self,
        module: torch.nn.Module,
        optimizer: Trainer | Critic,
        *,
        zero_stage: int,
        dtype: str,
        ranks: Ranks,
        offload: str = "none",
        own_lr: Mapping[str, float] | None = None,
    ) -> DeepSpeedEngine:
        """Take over ``module``; ``optimizer`` gives lr, betas, weight decay, clipping and schedule.

        Args:
            own_lr: base learning rates, by beginning of a name, of parameters that do not have the optimizer's.

        Raises:
            RequestError: DeepSpeed refuses a setting of ``config``.
        """
        import deepspeed
        from pydantic import ValidationError
        from transformers.modeling_layers import GradientCheckpointingLayer

        # This optional shared-memory collective would be compiled at first use. One rank needs none, and gloo serves
        # several.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(verbose=False)
        zero_stage = stage_in_effect(zero_stage, ranks.size, offload, self.config.get("zero_optimization"))
        groups = parameter_groups(module, optimizer.lr, own_lr or {})
        # A fused step makes one pass over weights and states, not one per operation, and needs no temporaries.
        fused = True if offload != "none" or ranks.device.type == "cuda" else None
        adamw = _adamw(module, groups, optimizer, fused)
        if zero_stage == 3 and all(parameter.requires_grad for parameter in module.parameters()):
            # A layer's weights are gathered together, with one set of hooks, and not those of each part of it: the
            # hooks are Python, and cost more than the layer itself. (Frozen weights would be released as soon as the
            # gradient reaches a first layer whose input needs none.)
            deepspeed.utils.set_z3_leaf_modules(module, [GradientCheckpointingLayer], raise_if_not_found=False)
        settings = self._settings(zero_stage, dtype, offload, optimizer.grad_clip)
        lent = local_rank.lend(ranks.device.index or 0)
        try:
            engine, *_ = deepspeed.initialize(model=module, optimizer=adamw, config=settings)
            return DeepSpeedEngine(engine, adamw, groups, optimizer.grad_clip, zero_stage, ranks, lent)
        except BaseException as error:
            local_rank.take_back(lent)
            if not isinstance(error, ValidationError):
                raise
            refused = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
            fix = "see DeepSpeed's documentation of its JSON settings"
            raise RequestError(f"DeepSpeed refuses {'; '.join(refused)}", "trainer.backend.config", fix) from error

    def _settings(self, zero_stage: int, dtype: str, offload: str, grad_clip: float) -> dict[str, Any]:
        """Make DeepSpeed's settings; ``config`` may add to them and replace the ones that are not in :data:`OURS`."""
        return {
            "train_micro_batch_size_per_gpu": 1,
            "managed_gradient_accumulation": False,
            # 1e30 clips nothing; without ZeRO, _clip_gradients clips
            "gradient_clipping": 0.0 if zero_stage == 0 else grad_clip or 1e30,
            "bf16": {"enabled": dtype == "bfloat16"},
            "zero_force_ds_cpu_optimizer": False,
            **self.config,
            "zero_optimization": {
                "stage": zero_stage,
                **offload_settings(offload),
                **self.config.get("zero_optimization", {}),
            },
        }


def _adamw(
    module: torch.nn.Module, groups: Sequence[ParameterGroup], optimizer: Trainer | Critic, fused: bool | None
) -> torch.optim.AdamW:
    """Make AdamW over the groups of parameters."""
    parameters = []
    for group in groups:
        parameters.append({"params": [module.get_parameter(name) for name in group.names]})
    return torch.optim.AdamW(
        parameters, lr=optimizer.lr, betas=optimizer.betas, weight_decay=optimizer.weight_decay, fused=fused
    )


class DeepSpeedEngine(TrainEngine):
    """An engine trains one model. Every method runs on all ranks, the same number of times."""

    def __init__(
        self,
        engine: Any,
        adamw: torch.optim.AdamW,
        groups: Sequence[ParameterGroup],
        grad_clip: float,
        stage: int,
        ranks: Ranks,
        lent: bool = False,
    ) -> None:
        self.engine = engine
        self.adamw = adamw
        self.groups = groups
        self.stage = stage
        self.ranks = ranks
        self.steps_begun = 0
        """Number of optimizer steps that have begun to change weights."""
        self._lent_local_rank = lent
        self._clip = grad_clip
        self._norm = math.nan
        self._trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self._state = OptimizerState(engine, adamw, groups, stage, self._trained, ranks.device)
        self._frozen: list[Any] = []
        """Parameter groups that do not take part in the next step."""
        self._withheld: list[tuple[Tensor, Tensor | None]] = []
        """Tensors of the frozen groups with the gradients that were taken from them."""
        if stage == 0:
            adamw.register_step_pre_hook(self._clip_gradients)
        elif len(groups) > 1:
            # ZeRO 1 and 2 read the states of all groups as soon as the first group has been stepped
            self._state.create([torch.tensor(0.0)] * len(groups))
        adamw.register_step_pre_hook(self._begin)
        if len(groups) > 1:
            adamw.register_step_pre_hook(self._withhold_gradients)
            adamw.register_step_post_hook(self._give_gradients_back)

    @property
    def module(self) -> Any:  # type: ignore[override]
        return self.engine.module

    @torch.no_grad()
    def score(self, batch: Batch, **options: Any) -> Scores:
        """Score a batch in a forward pass without gradients; ``options`` go to the module."""
        self.engine.eval()
        return Scores(**self.engine(batch.to(self.ranks.device), **options))

    def update(
        self, micro_batches: Sequence[Batch], loss: Loss, lr_scale: float = 1.0, only: str = "", **options: Any
    ) -> dict[str, float]:
        """Take one optimizer step on the sum of ``loss`` over all micro-batches and ranks.

        Args:
            micro_batches: the rows of the step on this rank.
            loss: gives one micro-batch's share of the loss, and metrics as sums and counts.
            lr_scale: factor of the base learning rates in this step.
            only: a beginning of names that ``own_lr`` gave a learning rate: no other parameter takes a step. Their
                weights, Adam's moments and its count of steps stay as they are, in every ZeRO stage, so if they train
                later, that begins as if this step had not been. (A gradient of zero would not do: weight decay and
                momentum move weights without one, and the count decides how Adam corrects its first moments.)
            options: go to the module.

        Returns:
            The loss' metrics averaged over everything that they counted, ``grad_norm`` before clipping, and ``lr``.

        Raises:
            RunError: the gradient is not finite; the step was not taken.
        """
        self.engine.train()
        sums: dict[str, Tensor] = {}
        # All of them are copied now: a copy to the device waits for all work that the device was given before.
        for micro_batch in [batch.to(self.ranks.device) for batch in micro_batches]:
            value, metrics = loss(Scores(**self.engine(micro_batch, **options)), micro_batch)
            self.engine.backward(value * self.ranks.size)
            for name, (total, count) in metrics.items():
                pair = torch.stack([torch.as_tensor(total).detach().double(), torch.as_tensor(count).double()])
                sums[name] = sums[name] + pair if name in sums else pair
        self._prepare_groups(lr_scale, only)
        self.engine.step()
        norm = self._norm if self.stage == 0 else float(self.engine.get_global_grad_norm())
        # also checked here because DeepSpeed leaves out some steps by itself
        self._require_finite(norm)
        return {**self._means(sums), "grad_norm": norm, "lr": self.groups[0].lr * lr_scale}

    def _prepare_groups(self, lr_scale: float, only: str) -> None:
        """Set the learning rate of each group, and note which groups do not take part in this step."""
        self._frozen = []
        for param_group, group in zip(self.engine.optimizer.param_groups, self.groups, strict=True):
            param_group["lr"] = group.lr * lr_scale
            if not group.names[0].startswith(only):
                self._frozen.append(param_group)

    def _means(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Divide sums by counts over all ranks; some metrics may be there on some ranks only."""
        # one copy from the device for all metrics
        values = torch.stack([*sums.values()]).tolist() if sums else []
        totals: dict[str, float] = {}
        counts: dict[str, float] = {}
        for of_rank in self.ranks.gather(dict(zip(sums, values, strict=True))):
            for name, (total, count) in of_rank.items():
                totals[name] = totals.get(name, 0) + total
                counts[name] = counts.get(name, 0) + count
        return {name: totals[name] / max(counts[name], 1) for name in sorted(totals)}

    def weights(self, trained: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor of the module in full by its name, one after the other; or only ``trained`` parameters."""
        import deepspeed

        for name, parameter in self.module.named_parameters():
            if trained and name not in self._trained:
                continue
            if self.stage == 3:
                # a pass that an error has ended leaves modules here, and the parameter would not be gathered
                parameter.ds_active_sub_modules.clear()
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.stage == 3):
                yield name, parameter.detach().clone() if self.stage == 3 else parameter.detach()
        if not trained:
            saved = self.module.state_dict().keys()
            yield from ((name, buffer) for name, buffer in self.module.named_buffers() if name in saved)

    def fp32_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the fp32 weights behind the parameters of 16 bits, one gathered after the other, on the CPU."""
        return self._state.masters()

    def optimizer_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the optimizer (:meth:`OptimizerState.full`)."""
        return self._state.full()

    def live_optimizer_state(self) -> dict[str, Any]:
        """Return the same on the device, as it is until the next step (:meth:`OptimizerState.full`)."""
        return self._state.full(live=True)

    def load_optimizer_state(self, saved: dict[str, Any]) -> None:
        """Load a saved state. Raises RunError if it does not cover exactly the parameters that train."""
        self._state.load(saved)

    def close(self) -> None:
        """Release weights and optimizer, which DeepSpeed's hooks and caches would hold as long as the process lives.

        The linear layer that ZeRO 3 has put into torch is removed, too: it has no forward-mode derivative.
        """
        from deepspeed.runtime.zero import linear, parameter_offload, partition_parameters
        from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

        self.engine.destroy()
        local_rank.take_back(self._lent_local_rank)
        if torch.nn.functional.linear is linear.zero3_linear_wrap:
            torch.nn.functional.linear = partition_parameters.InsertPostInitMethodToModuleSubClasses.linear_bk
        modules = set(self.module.modules())
        stack = parameter_offload.FWD_MODULE_STACK
        stack[:] = [module for module in stack if module not in modules]
        # one method has a cache, inside the closure of a decorator
        for method in vars(PartitionedParameterCoordinator).values():
            for cell in getattr(method, "__closure__", None) or ():
                if hasattr(cell.cell_contents, "cache_clear"):
                    cell.cell_contents.cache_clear()

    def _begin(self, *_: Any) -> None:
        """Refuse a gradient that is not finite before AdamW changes weights and moments; count the step."""
        self._require_finite(self._norm if self.stage == 0 else float(self.engine.optimizer._global_grad_norm))
        self.steps_begun += 1

    def _require_finite(self, norm: float) -> None:
        """Raise RunError if the norm of the gradient is not finite."""
        if not math.isfinite(norm):
            raise RunError(
                f"the gradient is not finite (norm {norm})",
                type(self.module).__name__.lower(),
                "lower the learning rate, or look for infinite rewards in rollouts/; resume from the last checkpoint",
            )

    def _withhold_gradients(self, *_: Any) -> None:
        """Take the gradients from the frozen groups: AdamW does not touch parameters without a gradient."""
        # ZeRO makes a gradient of zeros for them, and may reuse its memory, so it is given back after the step.
        frozen = {id(group) for group in self._frozen}
        flats = [flat for group in self.adamw.param_groups if id(group) in frozen for flat in group["params"]]
        self._withheld = [(flat, flat.grad) for flat in flats]
        for flat in flats:
            flat.grad = None

    def _give_gradients_back(self, *_: Any) -> None:
        for flat, gradient in self._withheld:
            flat.grad = gradient
        self._withheld = []

    def _clip_gradients(self, *_: Any) -> None:
        """Clip the gradients and keep their norm: without ZeRO, DeepSpeed clips but does not give the norm."""
        parameters = [p for p in self._trained.values() if p.grad is not None]
        self._norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._clip or math.inf))
