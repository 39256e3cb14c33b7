"""The loss of U needs more than its samples: the estimator as the run has it, values, greedy rewards, the reference."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import attrs
import torch
from torch import Tensor

from ...core.components import AdvantageEstimatorSession, Rollouts, Sampling
from ...core.compose.experiment import Model
from ...core.errors import RequestError
from ..training.networks.models import load_critic, load_reference
from ..training.networks.prepare import prepare_model
from ..training.networks.shared_critic import with_value_head
from ..training.step.borders import CheckedAdvantage
from ..training.step.stages import kl_in_reward, to_batch
from ..training.weights import reference
from .estimation.passes import Passes
from .legacy_keys import backbone_path
from .own_run import OwnRun
from .sampler import Sampler
from .sampling.samples import Sample


def credit(session: Sampler, sample: Sample) -> dict[str, Any]:
    """Return what the configured advantage estimator asks for, by name.

    ``values``, ``logprobs`` and ``entropies`` are [B, T], ``greedy_rewards`` is [B]. ``step`` and ``steps`` say which
    step of the run it is, where the checkpoint has a run.
    """
    named = session.config.policy_gradient.advantage
    assert named is not None
    needs: frozenset[str] = named.needs
    run = session.run
    inputs: dict[str, Any] = {} if run is None else {"step": run.step, "steps": run.steps}
    if "values" in needs:
        inputs["values"] = values(session, sample.rollouts)
    if "greedy_rewards" in needs:
        inputs["greedy_rewards"] = greedy_rewards(session, sample)[sample.rollouts.groups]
    if of_policy := needs & {"logprobs", "entropies"}:
        scores = _forward(session, session.policy, sample.rollouts)
        inputs |= {name: scores[name].float() for name in of_policy}
    return inputs


def estimator(session: Sampler) -> AdvantageEstimatorSession:
    """Return the advantage estimator as it stands before the step that is predicted.

    That of the run goes on from what it has learnt by the checkpoint, and any other one begins anew. Each step has an
    estimator of its own, since each sample of U is a next step of the same run.
    """
    named, run = session.config.policy_gradient.advantage, session.run
    assert named is not None
    started = CheckedAdvantage(named).start()
    if run is not None and named == run.experiment.advantage and (saved := run.state.get("advantage")) is not None:
        started.load_state_dict(saved)
    return started


def values(session: Sampler, rollouts: Rollouts) -> Tensor:
    """Return the critic's values of the states before the sampled tokens: [B, T], in reward units."""
    run = session.run
    assert run is not None and run.experiment.critic is not None
    settings, saved = run.experiment.critic, run.checkpoint / "critic"
    if settings.shared:
        module: Any = with_value_head(session.policy, settings, saved)
    else:
        model = attrs.evolve(run.experiment.model, dtype="float32", gradient_checkpointing=False)
        module = load_critic(model, settings.path or "", saved)
    return _forward(session, module.to(session.ranks.device), rollouts)["values"].float()


def greedy_rewards(session: Sampler, sample: Sample) -> Tensor:
    """Return the reward of one greedy episode of each task of U: [P]."""
    sampling = Sampling(0.0, session.max_tokens)
    units: Mapping[int, int] = dict(enumerate(sample.tasks))
    episodes = session.sources["U"].play(units, 1, session.engine, session.loaded.tokenizer, sampling, 0)
    by_unit = {episode.seed: episode.reward for episode in episodes}
    return torch.tensor([by_unit[unit] for unit in units])


def reference_logprobs(session: Sampler, rollouts: Rollouts) -> Tensor:
    """Return log-probs of the reference: [B, T] nats.

    It is the policy that training started from, or what the run has moved it to.

    Raises:
        RequestError: nothing says which policy that is.
    """
    moved, module = reference.saved(session.loaded.directory), session.policy
    context: AbstractContextManager[None] = nullcontext()
    if session.loaded.adapter:
        context = reference.holding(module, moved) if moved else module.model.disable_adapter()
    elif moved:
        module = load_reference(Model(dtype="float32"), session.loaded.model_path, session.temperature)
        reference.ReferenceModel(module.to(session.ranks.device), session.ranks).load(moved)
    else:
        module = _start(session, session.run).to(session.ranks.device)
    with torch.no_grad(), context:
        return _forward(session, module, rollouts)["logprobs"].float()


def pay_kl(session: Sampler, rollouts: Rollouts, ref_logprobs: Tensor) -> Rollouts:
    """Return the rollouts with the KL term taken off the rewards, as the trainer does it."""
    gradient = session.config.policy_gradient
    assert gradient.kl is not None and gradient.kl_coef is not None
    logprobs_B_T = _forward(session, session.policy, rollouts)["logprobs"].float()
    return kl_in_reward(rollouts, gradient.kl.component(logprobs_B_T, ref_logprobs), gradient.kl_coef)


def _start(session: Sampler, run: OwnRun | None) -> Any:
    place = session.config.checkpoint
    named = place.backbone or place.model_config_path
    if run is None and not named:
        raise RequestError(
            "a KL term needs a reference policy, and a full model has no adapter to switch off",
            "policy_gradient.kl",
            "give the model that training started from as checkpoint.backbone, or leave the KL term out",
        )
    settings = run.experiment.model if run is not None else Model()
    path = prepare_model(run.experiment) if run is not None else backbone_path(named)
    return load_reference(attrs.evolve(settings, dtype="float32"), path, session.temperature)


def _forward(session: Sampler, module: Any, rollouts: Rollouts) -> dict[str, Tensor]:
    passes = Passes(module, to_batch(rollouts), ranks=session.ranks, **session.config.memory_config.sizes)
    return passes.forward()
