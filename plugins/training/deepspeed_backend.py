"""The ``deepspeed`` backend: ZeRO 0-3 under one small interface.

DeepSpeed averages gradients over ranks; our losses are already shares of one sum over all ranks, so each is
multiplied by the number of ranks. We own the accumulation boundary (``managed_gradient_accumulation: false``): every
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
"""Settings of DeepSpeed that follow from the experiment, and from which keys of it."""


@attrs.frozen
class DeepSpeed(TrainBackend):
    """Train with DeepSpeed: ZeRO stage from ``trainer.zero_stage``, AdamW, fp32 master weights under bfloat16."""

    config: dict[str, Any] = attrs.field(factory=dict)
    """Further DeepSpeed settings, merged over ours (its own JSON keys)."""

    def check(self, experiment: Experiment) -> Iterator[str]:
        """Why this backend cannot train the experiment."""
        if experiment.model.dtype == "bfloat16" and experiment.trainer.zero_stage == 0:
            yield "ZeRO 0 hides the fp32 master weights of a bfloat16 model; set trainer.zero_stage to 1 or more"
        zero = self.config.get("zero_optimization", {})
        if not isinstance(zero, Mapping):
            yield f"config sets zero_optimization to {zero!r}, which is no section"
            return
        for name in (*self.config, *(f"zero_optimization.{key}" for key in zero)):
            if name in OURS:
                yield f"config sets {name}, which follows from {OURS[name]}; set that instead"
        offload, least = experiment.trainer.offload, {"none": 0, "optimizer": 1, "all": 3}
        if experiment.trainer.zero_stage < least[offload]:
            yield f"trainer.offload {offload} needs trainer.zero_stage {least[offload]} or more"

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

        ``own_lr``: the base learning rate of parameters whose names begin so, where it is not the optimizer's.

        Raises:
            RequestError: DeepSpeed refuses a setting of ``config``.
        """
        import deepspeed
        from pydantic import ValidationError
        from transformers.modeling_layers import GradientCheckpointingLayer

        # An optional shared-memory collective that is compiled at first use: of no use for one rank, and gloo serves
        # the rest.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(verbose=False)
        zero_stage = stage_in_effect(zero_stage, ranks.size, offload, self.config.get("zero_optimization"))
        groups = parameter_groups(module, optimizer.lr, own_lr or {})
        adamw = torch.optim.AdamW(
            [{"params": [module.get_parameter(name) for name in group.names]} for group in groups],
            lr=optimizer.lr,
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
            # One pass over weights and states rather than one for each operation, without their temporaries.
            fused=True if offload != "none" or ranks.device.type == "cuda" else None,
        )
        if zero_stage == 3 and all(parameter.requires_grad for parameter in module.parameters()):
            # A layer's weights are gathered together, with one set of hooks, rather than those of each part of it:
            # the hooks are Python, and cost more than the layer itself. (Frozen weights would be given up as soon as
            # the gradient reaches a first layer whose input needs none.)
            deepspeed.utils.set_z3_leaf_modules(module, [GradientCheckpointingLayer], raise_if_not_found=False)
        settings = {
            "train_micro_batch_size_per_gpu": 1,
            "managed_gradient_accumulation": False,
            "gradient_clipping": 0.0 if zero_stage == 0 else optimizer.grad_clip or 1e30,
            "bf16": {"enabled": dtype == "bfloat16"},
            "zero_force_ds_cpu_optimizer": False,
            **self.config,
            "zero_optimization": {
                "stage": zero_stage,
                **_offload(offload),
                **self.config.get("zero_optimization", {}),
            },
        }
        lent = local_rank.lend(ranks.device.index or 0)
        try:
            engine, *_ = deepspeed.initialize(model=module, optimizer=adamw, config=settings)
            return DeepSpeedEngine(engine, adamw, groups, optimizer.grad_clip, zero_stage, ranks, lent)
        except BaseException as error:
            local_rank.take_back(lent)
            if not isinstance(error, ValidationError):
                raise
            wrong = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
            fix = "see DeepSpeed's documentation of its JSON settings"
            raise RequestError(f"DeepSpeed refuses {'; '.join(wrong)}", "trainer.backend.config", fix) from error


def stage_in_effect(zero_stage: int, ranks: int, offload: str = "none", own: Mapping[str, Any] | None = None) -> int:
    """The ZeRO stage that is run; ``own`` are settings of the user's for ZeRO, which are taken at their word.

    One rank has no gradients to partition: stage 1 computes the same numbers as stage 2, but holds gradients once
    instead of twice and reduces them once an optimizer step rather than after each micro-batch.
    """
    return 1 if (zero_stage, ranks, offload) == (2, 1, "none") and not own else zero_stage


def _offload(what: str) -> dict[str, Any]:
    """ZeRO's own settings for what ``trainer.offload`` keeps in CPU memory."""
    parts = {"none": (), "optimizer": ("optimizer",), "all": ("optimizer", "param")}[what]
    return {f"offload_{part}": {"device": "cpu"} for part in parts}


class DeepSpeedEngine(TrainEngine):
    """One trained model. Every method runs on all ranks, the same number of times."""

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
        self._lent = lent  # LOCAL_RANK
        self.engine, self.adamw, self.groups, self.stage, self.ranks = engine, adamw, groups, stage, ranks
        self._clip, self._norm = grad_clip, math.nan
        self.steps_begun = 0
        self._names = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self._state = OptimizerState(engine, adamw, groups, stage, self._names, ranks.device)
        self._frozen: list[Any] = []
        self._withheld: list[tuple[Tensor, Tensor | None]] = []
        if stage == 0:
            adamw.register_step_pre_hook(self._clip_gradients)
        elif len(groups) > 1:
            # ZeRO 1 and 2 look for the states of all groups once the first group has been stepped
            self._state.create([torch.tensor(0.0)] * len(groups))
        adamw.register_step_pre_hook(self._begin)
        if len(groups) > 1:
            adamw.register_step_pre_hook(self._withhold)
            adamw.register_step_post_hook(self._give_back)

    @property
    def module(self) -> Any:  # type: ignore[override]
        return self.engine.module

    @torch.no_grad()
    def score(self, batch: Batch, **options: Any) -> Scores:
        """A forward pass without gradients; ``options`` go to the module."""
        self.engine.eval()
        return Scores(**self.engine(batch.to(self.ranks.device), **options))

    def update(
        self, micro_batches: Sequence[Batch], loss: Loss, lr_scale: float = 1.0, only: str = "", **options: Any
    ) -> dict[str, float]:
        """One optimizer step on the sum of ``loss`` over all micro-batches and ranks.

        Args:
            only: the start of the names that ``own_lr`` gave a learning rate of their own: nothing else takes a step.
                Weights, Adam's moments and its count of steps stay as they are, in every ZeRO stage, so what trains
                later begins as if it had never been there. (A gradient of zero would not do: weight decay and
                momentum move weights without one, and the count decides how Adam corrects its first moments.)

        Returns:
            The loss' metrics averaged over everything that they counted, ``grad_norm`` before clipping, and ``lr``.

        Raises:
            RunError: the gradient is not finite; the step was not taken.
        """
        self.engine.train()
        sums: dict[str, Tensor] = {}
        # All of them now: a copy to the device waits for whatever it was given before.
        for micro_batch in [each.to(self.ranks.device) for each in micro_batches]:
            value, metrics = loss(Scores(**self.engine(micro_batch, **options)), micro_batch)
            self.engine.backward(value * self.ranks.size)
            for name, (total, count) in metrics.items():
                pair = torch.stack([torch.as_tensor(total).detach().double(), torch.as_tensor(count).double()])
                sums[name] = sums[name] + pair if name in sums else pair
        self._frozen = []
        for group, own in zip(self.engine.optimizer.param_groups, self.groups, strict=True):
            group["lr"] = own.lr * lr_scale
            if not own.names[0].startswith(only):
                self._frozen.append(group)
        self.engine.step()
        norm = self._norm if self.stage == 0 else float(self.engine.get_global_grad_norm())
        self._must_be_finite(norm)  # DeepSpeed may have left the step out itself
        return {**self._means(sums), "grad_norm": norm, "lr": self.groups[0].lr * lr_scale}

    def _means(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Over all ranks; a loss may have measured on one of them what it has not on another."""
        own = dict(zip(sums, torch.stack([*sums.values()]).tolist(), strict=True)) if sums else {}
        pairs: dict[str, list[list[float]]] = {}
        for theirs in self.ranks.gather(own):
            for name, pair in theirs.items():
                pairs.setdefault(name, []).append(pair)
        totals = {name: map(sum, zip(*of_ranks, strict=True)) for name, of_ranks in sorted(pairs.items())}
        return {name: total / max(count, 1) for name, (total, count) in totals.items()}

    def weights(self, trained: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the module in full, one after the other, by its name; or only the ``trained`` parameters."""
        import deepspeed

        for name, parameter in self.module.named_parameters():
            if trained and name not in self._names:
                continue
            if self.stage == 3:
                parameter.ds_active_sub_modules.clear()  # those of a pass that an error has cut short
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.stage == 3):
                yield name, parameter.detach().clone() if self.stage == 3 else parameter.detach()
        saved = self.module.state_dict().keys()
        yield from ((name, buffer) for name, buffer in self.module.named_buffers() if name in saved and not trained)

    def optimizer_state(self) -> dict[str, Any]:
        """What a checkpoint keeps (:meth:`OptimizerState.full`)."""
        return self._state.full()

    def load_optimizer_state(self, saved: dict[str, Any]) -> None:
        """Raises RunError if the saved state does not cover exactly the parameters that train."""
        self._state.load(saved)

    def close(self) -> None:
        """Let go of weights and optimizer, which DeepSpeed's hooks and caches hold for the rest of the process.

        The linear layer that ZeRO 3 leaves in torch goes, too: it has no forward-mode derivative.
        """
        from deepspeed.runtime.zero import linear, parameter_offload, partition_parameters
        from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

        self.engine.destroy()
        local_rank.take_back(self._lent)
        if torch.nn.functional.linear is linear.zero3_linear_wrap:
            torch.nn.functional.linear = partition_parameters.InsertPostInitMethodToModuleSubClasses.linear_bk
        own, stack = set(self.module.modules()), parameter_offload.FWD_MODULE_STACK
        stack[:] = [module for module in stack if module not in own]
        for method in vars(PartitionedParameterCoordinator).values():  # one has a cache, below a decorator
            for cell in getattr(method, "__closure__", None) or ():
                if hasattr(cell.cell_contents, "cache_clear"):
                    cell.cell_contents.cache_clear()

    def _begin(self, *_: Any) -> None:
        """Called as AdamW is about to change weights and moments, once the norm of the gradient is known."""
        self._must_be_finite(self._norm if self.stage == 0 else float(self.engine.optimizer._global_grad_norm))
        self.steps_begun += 1

    def _must_be_finite(self, norm: float) -> None:
        if not math.isfinite(norm):
            raise RunError(
                f"the gradient is not finite (norm {norm})",
                type(self.module).__name__.lower(),
                "lower the learning rate, or look for infinite rewards in rollouts/; resume from the last checkpoint",
            )

    def _withhold(self, *_: Any) -> None:
        # AdamW leaves what has no gradient alone; ZeRO makes one of zeros of it, and may reuse its memory.
        frozen = [group for group in self.adamw.param_groups if any(group is other for other in self._frozen)]
        flats = [flat for group in frozen for flat in group["params"]]
        self._withheld = [(flat, flat.grad) for flat in flats]
        for flat in flats:
            flat.grad = None

    def _give_back(self, *_: Any) -> None:
        for flat, gradient in self._withheld:
            flat.grad = gradient
        self._withheld = []

    def _clip_gradients(self, *_: Any) -> None:
        # Without ZeRO, DeepSpeed clips but does not say what the norm was.
        parameters = [p for p in self._names.values() if p.grad is not None]
        self._norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._clip or math.inf))
