"""The mathematics of a step, with what its components hand over checked: shape, dtype and finiteness.

What they were given they must not change: others compute with it after them.

A loss that returns one number instead of one per token, or a NaN off the mask, would train in silence. What is computed
on whole batches on the CPU is checked whenever it is handed over; what runs inside a forward and backward pass is
checked at its first call in a run, since every look at a GPU's numbers makes it wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

import attrs
import torch
from torch import Tensor

from ....core.components import (
    AdvantageEstimator,
    Advantages,
    Component,
    CreditInputs,
    GroupMetric,
    KlController,
    KlControllerSession,
    KlVariant,
    LossAggregation,
    LossInputs,
    PolicyLoss,
    RolloutFilter,
    Rollouts,
    SamplerCorrection,
)
from ....core.compose.blame import blaming, confined, require_session, wrong
from ....core.compose.experiment import Experiment, Named
from ....core.compose.inner import checked_inner
from ...rollout.borders import CHECKED as OF_ROLLOUTS

RESERVED = ("train", "validation", "actor", "critic", "rollout", "mismatch")
"""First parts of names of metrics that are the run's own."""


def guarded(experiment: Experiment) -> Experiment:
    """The same experiment, with filter, metric, KL, controller, advantage, loss, correction and aggregation checked.

    A component that hands over what its contract does not allow, or raises, ends the run with an error that names it.
    """
    select, metric = _with(experiment.filter.select, CheckedFilter), _with(experiment.filter.metric, CheckedMetric)
    estimator = _with(experiment.kl.estimator, CheckedKl)
    controller = _with(experiment.kl.controller, CheckedController)
    aggregation = _with(experiment.trainer.loss_aggregation, CheckedAggregation)
    return attrs.evolve(
        experiment,
        filter=attrs.evolve(experiment.filter, select=select, metric=metric),
        kl=attrs.evolve(experiment.kl, estimator=estimator, controller=controller),
        advantage=_with(experiment.advantage, CheckedAdvantage),
        policy_loss=_with(experiment.policy_loss, CheckedLoss),
        correction=_with(experiment.correction, CheckedCorrection),
        trainer=attrs.evolve(experiment.trainer, loss_aggregation=aggregation),
    )


def _with(named: Named, checked: type[Checked]) -> Named:
    return named if isinstance(named.component, Checked) else attrs.evolve(named, component=checked(named))


class Checked(Component):
    """A component and its name, with what a component of any kind says."""

    def __init__(self, named: Named) -> None:
        self.named, self.component = named, checked_inner(named, named.component, CHECKED)
        self.seen = False
        """Whether a first result has been checked."""

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.named.needs

    def check(self, experiment: Experiment) -> Iterable[str]:
        return self.component.check(experiment)


class CheckedFilter(Checked, RolloutFilter):
    @property
    def keeps_all(self) -> bool:
        return self.component.keeps_all

    def select(self, scores_P: Tensor) -> Tensor:
        with _calling(self.named, "select", scores=scores_P):
            keep_P = self.component.select(scores_P)
        _tensor(self.named, "select", keep_P, scores_P.shape, "[P]", torch.bool)
        return keep_P


class CheckedMetric(Checked, GroupMetric):
    def score(self, rollouts: Rollouts) -> Tensor:
        with _calling(self.named, "score", **tensors(rollouts)):
            scores_P = self.component.score(rollouts)
        _tensor(self.named, "score", scores_P, rollouts.group_ids_P.shape, "[P]")
        _finite(self.named, "score", scores_P)
        return scores_P


class CheckedKl(Checked, KlVariant):
    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        with _calling(self.named, "call", logprobs=logprobs, ref_logprobs=ref_logprobs):
            kl_B_T = self.component(logprobs, ref_logprobs)
        _tensor(self.named, "call", kl_B_T, logprobs.shape, "[B, T]")
        # outside of a backward pass nobody minds the wait
        if not self.seen or not logprobs.requires_grad:
            _finite(self.named, "call", kl_B_T)
        self.seen = True
        return kl_B_T


class CheckedController(Checked, KlController):
    def start(self, coef: float) -> CheckedControllerSession:
        with blaming(self.named, "start"):
            session = self.component.start(coef)
        require_session(self.named, "start", session, KlControllerSession)
        return CheckedControllerSession(self.named, session)


class CheckedControllerSession(KlControllerSession):
    """A running KL controller."""

    def __init__(self, named: Named, session: Any) -> None:
        self.named, self.session = named, session

    @property
    def coef(self) -> float:  # type: ignore[override]
        with blaming(self.named, "coef"):
            coef = self.session.coef
        if not isinstance(coef, Real) or not math.isfinite(coef):
            raise wrong(self.named, "coef", f"is {coef!r}, which is not a finite number")
        return float(coef)

    def update(self, kl: float, episodes: int) -> None:
        with blaming(self.named, "update"):
            self.session.update(kl, episodes)

    def state_dict(self) -> dict[str, Any]:
        with blaming(self.named, "state_dict"):
            return self.session.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with blaming(self.named, "load_state_dict"):
            self.session.load_state_dict(state)


class CheckedAdvantage(Checked, AdvantageEstimator):
    def compute(self, batch: CreditInputs) -> Advantages:
        with _calling(self.named, "compute", **tensors(batch)):
            result = self.component.compute(batch)
        if not isinstance(result, Advantages):
            raise wrong(self.named, "compute", f"gave {type(result).__name__}, not Advantages")
        for name, value in attrs.asdict(result, recurse=False).items():
            _tensor(self.named, f"compute ({name})", value, batch.rewards.shape, "[B, T]")
            _finite(self.named, f"compute ({name})", value)
            if value.requires_grad:
                raise wrong(self.named, f"compute ({name})", "has a gradient: detach it")
            if bool((value[~batch.mask] != 0).any()):
                raise wrong(
                    self.named, f"compute ({name})", "is not zero off the mask, on tokens that were not sampled"
                )
        return result


class CheckedLoss(Checked, PolicyLoss):
    def prepare(self, batch: LossInputs) -> Mapping[str, Tensor]:
        with _calling(self.named, "prepare", **tensors(batch)):
            prepared = self.component.prepare(batch)
        if prepared is None:
            return {}
        if not isinstance(prepared, Mapping):
            raise wrong(self.named, "prepare", f"gave {type(prepared).__name__}, not a mapping of tensors")
        for name, value in prepared.items():
            if not isinstance(value, Tensor):
                raise wrong(self.named, "prepare", f"gave {name} as {type(value).__name__}, not as a tensor")
            if value.shape != batch.mask.shape[: value.ndim]:
                shapes = f"{list(batch.mask.shape)} ([R, T]), {list(batch.mask.shape[:1])} ([R]) or []"
                raise wrong(self.named, "prepare", f"gave {name} of shape {list(value.shape)}, not {shapes}")
            if value.is_floating_point():
                _finite(self.named, f"prepare ({name})", value)
        return prepared

    def __call__(self, inputs: LossInputs) -> Any:
        with _calling(self.named, "call", **tensors(inputs)):
            result = self.component(inputs)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
            raise wrong(self.named, "call", "must give a LossOutput: loss [B, T], and metrics as (sum, count) pairs")
        loss_B_T, metrics = result
        logprobs = inputs.logprobs
        _tensor(self.named, "call", loss_B_T, logprobs.shape, "[B, T], one loss for each token")
        for name, pair in metrics.items():
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise wrong(self.named, "call", f"gave the metric {name} as {type(pair).__name__}, not as (sum, count)")
            for value in pair:
                _number(self.named, "call", name, value, finite=not self.seen)
        if not self.seen:
            # also off the mask: the gradient of a NaN is NaN, whatever it is multiplied with afterwards
            _finite(self.named, "call", loss_B_T)
            if logprobs.requires_grad and not loss_B_T.requires_grad:
                raise wrong(
                    self.named, "call", "gave a loss that does not depend on the log-probs: nothing would train"
                )
        self.seen = True
        return result


class CheckedCorrection(Checked, SamplerCorrection):
    @property
    def idle(self) -> bool:  # type: ignore[override]
        return self.component.idle

    def correction(self, old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> Any:
        given = {"old_logprobs": old_logprobs, "sampler_logprobs": sampler_logprobs, "mask": mask}
        with _calling(self.named, "correction", **given):
            result = self.component.correction(old_logprobs, sampler_logprobs, mask)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
            raise wrong(self.named, "correction", "must give a pair: weights [B, T], and a mapping of metrics")
        weights_B_T = result[0]
        _tensor(self.named, "correction", weights_B_T, old_logprobs.shape, "[B, T]")
        if weights_B_T.requires_grad:
            raise wrong(self.named, "correction", "gave weights with a gradient: detach them")
        for name, value in result[1].items():
            _number(self.named, "correction", name, value)
        if not self.seen:
            _finite(self.named, "correction", weights_B_T)
            if bool((weights_B_T < 0).any()):
                raise wrong(self.named, "correction", "gave negative weights, which would turn gradients around")
        self.seen = True
        return result


class CheckedAggregation(Checked, LossAggregation):
    def weights(self, mask_B_T: Tensor, max_length: int) -> Tensor:
        with _calling(self.named, "weights", mask_B_T=mask_B_T):
            weights_B_T = self.component.weights(mask_B_T, max_length)
        _tensor(self.named, "weights", weights_B_T, mask_B_T.shape, "[B, T]", torch.float32)
        _finite(self.named, "weights", weights_B_T)
        if bool((weights_B_T < 0).any()):
            raise wrong(self.named, "weights", "gave negative weights, which would turn gradients around")
        if bool((weights_B_T[~mask_B_T] != 0).any()):
            raise wrong(self.named, "weights", "gave weights off the mask, to tokens that were not sampled")
        return weights_B_T


CHECKED: dict[str, Callable[[Named], Any]] = {
    **OF_ROLLOUTS,
    "rollout_filter": CheckedFilter,
    "group_metric": CheckedMetric,
    "kl": CheckedKl,
    "kl_controller": CheckedController,
    "advantage": CheckedAdvantage,
    "policy_loss": CheckedLoss,
    "sampler_correction": CheckedCorrection,
    "loss_aggregation": CheckedAggregation,
}
"""Kind -> what checks its components where they stand inside of others."""


@contextmanager
def _calling(named: Named, method: str, **given: Tensor) -> Iterator[None]:
    """A call of a component, which neither fails without its name nor changes what others still need.

    Raises:
        RunError: it raised something, or changed the process, or one of the tensors that it was ``given``.
    """
    before = contents(given)
    with confined(named, method):
        yield
    for name in changes(given, before):
        raise wrong(named, method, f"changed {name} in place, which others still need: clone it first")


def contents(given: Mapping[str, Tensor]) -> dict[str, tuple[int, Tensor | None]]:
    """What changes with each tensor. On the CPU the numbers too: numpy writes there, and torch does not hear of it."""
    return {
        name: (_version(tensor), tensor.detach().nan_to_num() if tensor.is_cpu else None)
        for name, tensor in given.items()
    }


def changes(given: Mapping[str, Tensor], before: Mapping[str, tuple[int, Tensor | None]]) -> list[str]:
    """The names of the tensors that are no longer what :func:`contents` found."""
    changed = []
    for name, (version, numbers) in before.items():
        same = numbers is None or torch.equal(numbers, given[name].detach().nan_to_num())
        if _version(given[name]) != version or not same:
            changed.append(name)
    return changed


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def tensors(given: Rollouts | CreditInputs | LossInputs) -> dict[str, Tensor]:
    """Those of what a component is given, by name."""
    prefix = "rollouts." if isinstance(given, Rollouts) else ""
    fields = attrs.asdict(given, recurse=False)
    return {f"{prefix}{name}": value for name, value in fields.items() if isinstance(value, Tensor)}


def _number(named: Named, method: str, name: Any, value: Any, finite: bool = True) -> None:
    """Check one number of a metric. That it is finite is looked at once where the GPU would have to be waited for."""
    if not isinstance(name, str):
        raise wrong(named, method, f"gave a metric the name {name!r}, which is no text")
    if name.partition("/")[0] in RESERVED and "/" in name:
        raise wrong(named, method, f"gave a metric the name {name}, which is the run's own")
    if isinstance(value, Tensor) and value.ndim == 0:
        finite = not finite or bool(value.isfinite())
    elif isinstance(value, Real):
        finite = math.isfinite(value)
    else:
        said = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise wrong(named, method, f"gave {said} for the metric {name}, which is not a number")
    if not finite:
        raise wrong(named, method, f"gave {float(value)} for the metric {name}, which is not a finite number")


def _tensor(
    named: Named, method: str, value: Any, shape: torch.Size, said: str, dtype: torch.dtype | None = None
) -> None:
    if not isinstance(value, Tensor):
        raise wrong(named, method, f"gave {type(value).__name__}, not a tensor")
    if value.shape != shape:
        raise wrong(named, method, f"gave a tensor of shape {list(value.shape)}, not {list(shape)} ({said})")
    if dtype is not None and value.dtype != dtype:
        raise wrong(named, method, f"gave {value.dtype}, not {dtype}")
    if dtype is None and not value.is_floating_point():
        raise wrong(named, method, f"gave {value.dtype}, not floating-point numbers")


def _finite(named: Named, method: str, value: Tensor) -> None:
    if not bool(value.isfinite().all()):
        places = (~value.isfinite()).nonzero()[:3].tolist()
        raise wrong(named, method, f"gave values that are NaN or infinite, the first at {places}")
