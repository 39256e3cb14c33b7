"""The direction of the step against torch's own AdamW, and its derivatives by the gradient against differences."""

import sys
from pathlib import Path

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.plugins.probe.checkpoint.adam_state import AdamSettings, AdamState, Coverage
from uncollapse.plugins.probe.estimation.directions import AdamW, PreconditionedGradient
from uncollapse.plugins.probe.estimation.measurement import Measurement
from uncollapse.plugins.probe.estimation.passes import inner, norm
from uncollapse.plugins.probe.estimation.step import Step

sys.path.insert(0, str(Path(__file__).parent))
import exact_model as exact

SHAPES = {"a": (3, 4), "b": (5,), "c": (2, 2)}
FIRST, SECOND = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1}, {"betas": (0.8, 0.999)}


def tensors(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()
    }


def optimizer(theta, steps, amsgrad, decay, seed=0):
    """torch's AdamW after some steps, with two parameter groups whose settings differ."""
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in theta.items()}
    groups = [
        {"params": [parameters["a"], parameters["c"]], **FIRST, "weight_decay": decay},
        {"params": [parameters["b"]], "lr": 1e-3, "eps": 1e-8, "weight_decay": decay / 3, **SECOND},
    ]
    adam = torch.optim.AdamW(groups, amsgrad=amsgrad, foreach=False)
    for step in range(steps):
        # large gradients first, so that amsgrad remembers them
        for name, gradient in tensors(100 + seed + step, 3.0 if step < 2 else 0.3).items():
            parameters[name].grad = gradient
        adam.step()
    return parameters, adam


def state_of(parameters, adam) -> AdamState:
    settings = {}
    for group in adam.param_groups:
        for parameter in group["params"]:
            name = next(name for name, own in parameters.items() if own is parameter)
            settings[name] = AdamSettings(group["betas"], group["eps"], group["weight_decay"], group["amsgrad"])

    def moments(key):
        zero = {name: torch.zeros_like(p) for name, p in parameters.items()}
        return {name: adam.state[p].get(key, zero[name]).clone() for name, p in parameters.items()}

    return AdamState(
        step={name: float(adam.state[p].get("step", 0)) for name, p in parameters.items()},
        exp_avg=moments("exp_avg"),
        exp_avg_sq=moments("exp_avg_sq"),
        max_exp_avg_sq=moments("max_exp_avg_sq") if adam.param_groups[0]["amsgrad"] else None,
        settings=settings,
        base_lr=None,
        coverage=Coverage(3, 3, 3, "names"),
    )


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e6], ids=["no clipping", "clipped", "not clipped"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 100])
def test_the_direction_is_the_step_of_torch(steps, amsgrad, decay, max_norm):
    theta, gradient = tensors(0), tensors(1, 0.7)
    parameters, adam = optimizer(theta, steps, amsgrad, decay)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    rule = AdamW(state_of(parameters, adam), before, max_norm)
    v, (carry, scale) = rule.direction(gradient), rule.split(gradient)

    for name, p in parameters.items():
        p.grad = gradient[name].clone()
    if max_norm:
        torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm)
    eta = 1e-3
    adam.step()
    for name, p in parameters.items():
        found = (p.detach() - before[name]) / eta
        torch.testing.assert_close(v[name], found, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(carry[name] - scale[name] * gradient[name], v[name], rtol=1e-12, atol=1e-13)


def test_nothing_is_clipped_unless_a_norm_is_given():
    rule, gradient = rule_of("adamw"), tensors(3, 50.0)
    plain, unclipped = rule.direction(gradient), attrs.evolve(rule, max_norm=1e9).direction(gradient)
    for name in SHAPES:
        torch.testing.assert_close(plain[name], unclipped[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [0, 100])
def test_without_advantages_momentum_and_decay_are_left(steps):
    parameters, adam = optimizer(tensors(0), steps, False, 0.1)
    state, theta = state_of(parameters, adam), {name: p.detach() for name, p in parameters.items()}
    nothing = {name: torch.zeros_like(p) for name, p in theta.items()}
    v = AdamW(state, theta).direction(nothing)
    for name, p in theta.items():
        settings, t = state.settings[name], steps + 1
        (b1, b2), m, s = settings.betas, state.exp_avg[name], state.exp_avg_sq[name]
        momentum = b1 * m / (1 - b1**t) / ((b2 * s).sqrt() / (1 - b2**t) ** 0.5 + settings.eps)
        torch.testing.assert_close(v[name], -momentum - settings.weight_decay * p, rtol=1e-12, atol=1e-14)
        if not steps:
            torch.testing.assert_close(v[name], -settings.weight_decay * p)


@pytest.mark.parametrize("step", [0, 1, 9])
def test_the_preconditioned_gradient(step):
    parameters, adam = optimizer(tensors(0), step, False, 0.1)
    state, gradient = state_of(parameters, adam), tensors(1)
    if not step:
        state = attrs.evolve(state, exp_avg_sq={name: g.square() for name, g in tensors(2).items()})
    rule = PreconditionedGradient(state)
    v, (carry, scale) = rule.direction(gradient), rule.split(gradient)
    for name, g in gradient.items():
        b2, s = state.settings[name].betas[1], state.exp_avg_sq[name]
        corrected = s / (1 - b2**step) if step else s
        torch.testing.assert_close(v[name], -g / (corrected.sqrt() + state.settings[name].eps), rtol=1e-12, atol=0)
        assert bool((carry[name] == 0).all()) and torch.allclose(-scale[name] * g, v[name], rtol=1e-12, atol=0)
    # no momentum, no decay: odd, and nothing without a gradient
    for name, turned in rule.direction({name: -g for name, g in gradient.items()}).items():
        assert torch.equal(turned, -v[name])


RULES = {
    "adamw": lambda state, theta: AdamW(state, theta),
    "adamw, clipped": lambda state, theta: AdamW(state, theta, 0.5),
    "adamw, not clipped": lambda state, theta: AdamW(state, theta, 1e6),
    "proxy": lambda state, theta: PreconditionedGradient(state),
}


def rule_of(name, amsgrad=False, steps=3):
    parameters, adam = optimizer(tensors(0), steps, amsgrad, 0.1)
    return RULES[name](state_of(parameters, adam), {name: p.detach() for name, p in parameters.items()})


@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(RULES)),
    amsgrad=st.booleans(),
    steps=st.sampled_from([0, 1, 5]),
    seed=st.integers(1, 99),
)
def test_derivatives_by_the_gradient(name, amsgrad, steps, seed):
    rule, gradient = rule_of(name, amsgrad, max(steps, 1) if name == "proxy" else steps), tensors(seed, 0.3)
    weights, change, h = tensors(seed + 1), tensors(seed + 2), 1e-6
    plus, minus = (rule.direction({n: g + sign * h * change[n] for n, g in gradient.items()}) for sign in (1, -1))
    difference = {n: (plus[n] - minus[n]) / (2 * h) for n in plus}
    pushed, pulled = rule.push_forward(gradient, change), rule.pull_back(gradient, weights)
    scale = norm(difference)
    for n, value in difference.items():
        torch.testing.assert_close(pushed[n], value, rtol=1e-5, atol=1e-5 * scale)
    assert inner(pulled, change) == pytest.approx(inner(weights, pushed), rel=1e-10, abs=1e-10 * scale)


@pytest.mark.parametrize("name", sorted(RULES))
def test_entries_that_never_had_a_gradient(name):
    """No NaN, and no momentum: a second moment of 0 has the derivative 0 there, not infinity."""
    rule, gradient = rule_of(name), tensors(5)
    zeroed = {"exp_avg", "exp_avg_sq"}
    rule = attrs.evolve(
        rule,
        state=attrs.evolve(
            rule.state,
            **{key: {n: x.clone() for n, x in getattr(rule.state, key).items()} for key in zeroed},
        ),
    )
    for key in zeroed:
        getattr(rule.state, key)["a"][0] = 0.0
    gradient["a"][0] = 0.0
    v = rule.direction(gradient)
    decay = 0.0 if name == "proxy" else rule.state.settings["a"].weight_decay * rule.parameters["a"][0]
    torch.testing.assert_close(v["a"][0], torch.zeros(4, dtype=torch.float64) - decay)
    pulled, pushed = rule.pull_back(gradient, tensors(6)), rule.push_forward(gradient, gradient)
    assert all(bool(x.isfinite().all()) for found in (v, pulled, pushed) for x in found.values())
    # at a gradient of 0 everywhere, clipping has no direction either
    nothing = {n: torch.zeros_like(g) for n, g in gradient.items()}
    for found in (rule.direction(nothing), rule.pull_back(nothing, tensors(6)), rule.push_forward(nothing, gradient)):
        assert all(bool(x.isfinite().all()) for x in found.values())


def test_at_a_gradient_and_moments_of_0_the_step_is_the_gradient_over_eps():
    """The root has the value and the derivative 0 there, so eps is all that is left of the denominator."""
    rule, change = rule_of("adamw"), tensors(7)
    zero = {name: torch.zeros_like(g) for name, g in change.items()}
    rule = attrs.evolve(rule, state=attrs.evolve(rule.state, exp_avg=zero, exp_avg_sq=zero))
    pushed, pulled = rule.push_forward(zero, change), rule.pull_back(zero, change)
    for name, own in rule.state.settings.items():
        beta, t = own.betas[0], rule.state.step[name] + 1
        expected = -(1 - beta) / (1 - beta**t) * change[name] / own.eps
        torch.testing.assert_close(pushed[name], expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(pulled[name], expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(rule.split(zero)[1][name] * change[name], -expected, rtol=1e-12, atol=0)


# --- what the samples of a step contribute --------------------------------------------------------------------------


def step_of(policy, rule, rollouts, size=5, **options):
    return Step(policy, exact.update_of(rollouts, **options), rule, size=size, ranks=exact.ONE)


@pytest.fixture(scope="module")
def played():
    policy = exact.ExactPolicy(4)
    return policy, exact.sample(policy, 6, 4, torch.Generator().manual_seed(2))


def rules_of(policy):
    theta = {name: p.detach() for name, p in policy.named_parameters()}
    adam = exact.adam_of(policy)
    return {"adamw": AdamW(adam, theta), "clipped": AdamW(adam, theta, 0.01), "proxy": PreconditionedGradient(adam)}


@pytest.mark.parametrize("name", ["adamw", "clipped", "proxy"])
def test_shares_of_the_sequences_add_up(played, name):
    policy, rollouts = played
    step, weights = step_of(policy, rules_of(policy)[name], rollouts), exact.direction_of(policy, 8)
    shares, carried = step.influences(weights)
    assert len(shares) == 24 and shares.std() > 0
    whole = inner(weights, step.direction)
    assert float(shares.sum()) + carried == pytest.approx(whole, rel=1e-10, abs=1e-10)
    assert (carried == 0) == (name == "proxy")
    if name == "clipped":
        assert norm(step.gradient) > 0.01


@pytest.mark.parametrize("name", ["adamw", "clipped", "proxy"])
def test_a_prompt_s_product_is_the_derivative_of_more_of_that_prompt(played, name):
    """t_p against differences: the direction when prompt p counts a little more and all others a little less."""
    policy, U = played
    E = exact.sample(policy, 7, 2, torch.Generator().manual_seed(3))
    step = step_of(policy, rules_of(policy)[name], U)
    measured = Measurement(policy, E, step, size=6, ranks=exact.ONE, eta=0.1)
    X, M, h = measured.entropy_gradient("per_sequence"), 6, 1e-6
    t_M = measured.terms("per_sequence", {"t_M"}, None).t_M
    for p, own in enumerate(step.prompt_gradients()):
        directions = [
            step.rule.direction({n: g + sign * h * (own[n] - g) for n, g in step.gradient.items()}) for sign in (1, -1)
        ]
        slope = (inner(X, directions[0]) - inner(X, directions[1])) / (2 * h)
        assert float(t_M[p]) == pytest.approx(inner(X, step.direction) + slope, rel=1e-5, abs=1e-7)
    assert len(t_M) == M


def test_squared_norms_of_gradients_of_one_prompt_and_of_all(played):
    policy, U = played
    step = step_of(policy, rules_of(policy)["adamw"], U)
    measured = Measurement(
        policy, exact.sample(policy, 3, 2, torch.Generator().manual_seed(3)), step, size=6, ranks=exact.ONE, eta=0.1
    )
    found = measured.terms("per_sequence", {"grad_sq_R"}, None)
    own = [inner(g, g) for g in step.prompt_gradients()]
    assert found.grad_sq_R.tolist() == pytest.approx([sum(own) / 6, inner(step.gradient, step.gradient)])
    assert found.grad_sizes_R.tolist() == [1, 6]
