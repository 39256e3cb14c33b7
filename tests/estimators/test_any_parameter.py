"""Whatever a parameter of an intervention takes, the numbers that come out are finite; the rest is refused by name."""

import math

import attrs
import pytest
import torch
from uncollapse.core.components import Group, GroupPool
from uncollapse.core.compose.inner import named_of
from uncollapse.core.registry import registry
from uncollapse.testing import samples

NUMBERS = [0, -1, 1, 2, 7, -0.5, 0.3, 0.02, 1e-30, 1e30, -1e30, 10**9, math.inf, -math.inf, math.nan]
VALUES = [*NUMBERS, True, False, "x", None, []]


def of_filter(component):
    return component.select(samples.scores_P()).float()


def of_episodes(component):
    return component.select(samples.rollouts()).float()


def of_loss(component):
    inputs = samples.loss_inputs()
    prepared = component.prepare(attrs.evolve(inputs, logprobs=inputs.logprobs.detach())) or {}
    loss = component(attrs.evolve(inputs, prepared=prepared)).loss_B_T
    (gradient,) = torch.autograd.grad(loss.sum() + 0 * inputs.logprobs.sum(), inputs.logprobs)
    return torch.stack([loss.detach(), gradient])


def of_advantage(component):
    needs = named_of("advantage", component, "advantage").needs
    result = component.compute(samples.credit(needs))
    return torch.stack([result.advantages, result.returns])


def of_correction(component):
    inputs = samples.loss_inputs()
    far = 30 * (inputs.sampler_logprobs - inputs.old_logprobs)
    weights, metrics = component.correction(inputs.old_logprobs, inputs.old_logprobs + far, inputs.mask)
    return torch.cat([weights.flatten(), torch.tensor(list(metrics.values()), dtype=weights.dtype)])


def of_shaping(component):
    return component.shape(samples.shaping_inputs())


def of_controller(component):
    session = component.start(0.01, 10)
    coefs = []
    for step, entropy in enumerate((0.0, 0.3, 9.0, 0.3, 0.1)):
        session.update(entropy, step)
        coefs.append(session.coef)
    return torch.tensor(coefs)


class Pool(GroupPool):
    def __init__(self, step):
        self.step, self.next = step, 10 * step

    def sample(self, groups) -> list[Group]:
        self.next += groups
        return [samples.group(seed, self.step, 2) for seed in range(self.next - groups, self.next)]

    def teaches(self, groups):
        return [bool(group.seed % 3) for group in groups]


def of_batches(component):
    session = component.start(2, 2)
    chosen = [len(session.collect(Pool(step), step)) for step in range(3)]
    return torch.tensor([*chosen, *session.metrics().values()], dtype=torch.float64)


RUNS = {
    "rollout_filter": of_filter,
    "episode_filter": of_episodes,
    "policy_loss": of_loss,
    "advantage": of_advantage,
    "sampler_correction": of_correction,
    "reward_shaping": of_shaping,
    "entropy_controller": of_controller,
    "batch_sampler": of_batches,
}
LARGE = {("batch_sampler", "dynamic", "size"), ("batch_sampler", "dynamic", "rounds")}
"""Counts of what is sampled: a large one is slow, and has a limit of its own."""


def structured(kind, spelled):
    """The component, or why there is none."""
    try:
        return named_of(kind, spelled, "it")
    except ValueError as refusal:
        return str(refusal)


def parameters():
    for kind in RUNS:
        for name in registry().names(kind):
            described = registry().describe(kind, name).parameters
            required = {parameter.name: 0.5 if parameter.type == "float" else 1 for parameter in described}
            required = {p.name: required[p.name] for p in described if p.required}
            for parameter in described:
                numeric = "int" in parameter.type or "float" in parameter.type
                yield pytest.param(kind, name, parameter.name, required, numeric, id=f"{kind}-{name}-{parameter.name}")


@pytest.mark.parametrize(("kind", "name", "parameter", "others", "numeric"), parameters())
def test_what_a_parameter_takes_gives_finite_numbers(kind, name, parameter, others, numeric):
    taken = 0
    for value in VALUES:
        if (kind, name, parameter) in LARGE and isinstance(value, float | int) and value > 7:
            continue
        named = structured(kind, {"name": name, **others, parameter: value})
        if isinstance(named, str):
            assert parameter in named, (value, named)
            continue
        taken += 1
        assert RUNS[kind](named.component).isfinite().all(), (value, named)
    assert taken or not numeric
