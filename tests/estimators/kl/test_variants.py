"""Values and gradients per token, against vectors of verl 0.6.1."""

import pytest
import torch
import uncollapse
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.estimators.kl.variants import K3, K3Plus

LOGPROBS = [-0.5, -1, -2, -0.1, -30, -0.01]
REF_LOGPROBS = [-0.7, -1, -1, -5, -0.5, -25]
LOG_RATIOS = [0.2, 0, -1, 4.9, -29.5, 24.99]
ABS = [0.2, 0, 1, 4.9, 29.5, 24.99]
MSE = [0.02, 0, 0.5, 12.005, 435.125, 312.25005]
LOW_VAR_KL = [0.018731, 0, 0.718282, 3.907447, 10, 10]
BASES = ["kl", "abs", "mse", "low_var_kl"]


def run(name, logprobs=LOGPROBS, ref_logprobs=REF_LOGPROBS, dtype=torch.float64, **params):
    logprobs = torch.tensor([logprobs], dtype=dtype, requires_grad=True)
    value = uncollapse.registry().create("kl", name, **params)(logprobs, torch.tensor([ref_logprobs], dtype=dtype))
    value.sum().backward()
    return value[0].tolist(), logprobs.grad[0].tolist()


@pytest.mark.parametrize(
    ("name", "value", "gradient"),
    [
        ("kl", LOG_RATIOS, [1] * 6),
        ("abs", ABS, [1, 0, -1, 1, -1, 1]),
        ("mse", MSE, LOG_RATIOS),
        ("low_var_kl", LOW_VAR_KL, [0.181269, 0, -1.718282, 0.992553, 0, 0]),
        ("kl+", LOG_RATIOS, LOG_RATIOS),
        ("abs+", ABS, LOG_RATIOS),
        ("mse+", MSE, LOG_RATIOS),
        ("low_var_kl+", LOW_VAR_KL, LOG_RATIOS),
    ],
)
def test_vectors(name, value, gradient):
    assert run(name) == (pytest.approx(value, abs=1e-6), pytest.approx(gradient, abs=1e-6))


@pytest.mark.parametrize(
    ("alias", "name"),
    [("k1", "kl"), ("k2", "mse"), ("k3", "low_var_kl"), ("k1+", "kl+"), ("k2+", "mse+"), ("k3+", "low_var_kl+")],
)
def test_aliases(alias, name):
    registry = uncollapse.registry()
    assert registry.resolve("kl", alias) is registry.resolve("kl", name)


@pytest.mark.parametrize("name", [*BASES, *(f"{base}+" for base in BASES)])
def test_every_variant_states_its_biases(name):
    facts = uncollapse.registry().describe("kl", name).facts
    assert facts["value_bias"].endswith(".")
    assert "In the loss" in facts["gradient_bias"]
    assert "in the reward" in facts["gradient_bias"]


@pytest.mark.parametrize("base", BASES)
@given(pairs=st.lists(st.tuples(st.floats(-15, 0), st.floats(-15, 0)), min_size=1, max_size=5))
def test_plus_has_the_value_of_its_base_and_the_gradient_of_mse(base, pairs):
    columns = [list(column) for column in zip(*pairs, strict=True)]
    value, gradient = run(f"{base}+", *columns)
    assert value == run(base, *columns)[0]
    assert gradient == run("mse", *columns)[1]


@given(logprob=st.floats(-15, 0), ref_logprob=st.floats(-15, 0))
def test_all_but_the_log_ratio_are_never_negative_and_zero_at_the_reference(logprob, ref_logprob):
    for name in ("abs", "mse", "low_var_kl"):
        assert run(name, [logprob], [ref_logprob])[0][0] >= 0
        assert run(name, [logprob], [logprob]) == ([0], [0])


def test_k3_keeps_its_digits_near_the_reference_in_float32():
    (value,), _ = run("low_var_kl", [1e-4], [0.0], dtype=torch.float32)
    assert value == pytest.approx(5e-9, rel=1e-3)


def test_clamps_of_k3_are_parameters():
    value, gradient = run("low_var_kl", clip_log_ratio=1.0, clip_value=float("inf"))
    e = torch.tensor(1.0, dtype=torch.float64).exp().item()
    assert value == pytest.approx([0.018731, 0, e - 2, 1 / e, e - 2, 1 / e], abs=1e-6)
    assert gradient == pytest.approx([0.181269, 0, 1 - e, 0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("cls", [K3, K3Plus])
@pytest.mark.parametrize("params", [{"clip_log_ratio": 0}, {"clip_value": 0}])
def test_clamps_are_checked(cls, params):
    with pytest.raises(ValueError, match=next(iter(params))):
        cls(**params)
    below_one = dict.fromkeys(params, 0.5)
    assert cls(**below_one) != cls()
