"""One suite for every backend: values and gradients of every output against dense formulas in float64.

Triton runs on a GPU, and on a CPU where its interpreter is switched on (TRITON_INTERPRET=1); TRL where it is installed.
"""

import importlib

import pytest
import torch
from heads_help import DEVICE, OUTPUTS, ROWS, data, need, oracle, temperatures
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from uncollapse.core.errors import RequestError
from uncollapse.plugins.training.heads.torch_head import Torch
from uncollapse.plugins.training.heads.triton_head import Triton
from uncollapse.plugins.training.heads.trl_head import Trl

HEADS = {
    "torch": Torch(),
    "torch-chunks": Torch(chunk_elements=37 * 3),
    "triton": Triton(),
    "triton-tiles": Triton(rows=ROWS, columns=16),
    "triton-parts": Triton(rows=3, columns=16),
    "triton-blocks": Triton(rows=ROWS, columns=32),
    "triton-float32": Triton(rows=4, columns=16, float32_logits=True),
    "trl": Trl(columns=16),
}
KNOWS = {"torch": OUTPUTS, "triton": OUTPUTS[:3], "trl": ("logprobs", "entropies")}


@pytest.fixture(params=HEADS)
def head(request, monkeypatch):
    name, _, variant = request.param.partition("-")
    need(name)
    if variant == "blocks":
        kernels = importlib.import_module("uncollapse.plugins.training.heads.triton_kernels")
        for launch in ("FOLD", "DIFFERENTIATE"):
            monkeypatch.setattr(kernels, launch, kernels.Launch(8, 1))
    return HEADS[request.param]


def knows(head):
    return KNOWS[type(head).__name__.lower()]


def run(head, hidden, weight, targets, **options):
    """The outputs that the head knows, with gradients, as float64 on the CPU."""
    temperature = options.pop("temperature", 1.0)
    options.setdefault("entropy", "gradient")
    if "second_moments" in knows(head):
        options.setdefault("second_moment", "gradient")
    if "collision_probs" in knows(head):
        options.setdefault("collision_prob", options["second_moment"])
    if isinstance(temperature, torch.Tensor):
        temperature = temperature.to(DEVICE)
    found = head(hidden.to(DEVICE), weight.to(DEVICE), targets.to(DEVICE), temperature=temperature, **options)
    return {name: getattr(found, name) for name in knows(head) if getattr(found, name) is not None}


def weights(rows, seed):
    return torch.randn(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check(head, inputs, atol=1e-5, gradient_atol=2e-5, rtol=1e-5, each=False, **options):
    """Every output, the gradient of all together, and with ``each`` the gradient of every output alone."""
    hidden, weight, targets = inputs
    found = run(head, *inputs, **options)
    expected = oracle(*inputs, **options)
    assert set(found) == set(knows(head))
    for name, output in found.items():
        assert output.dtype == torch.float32
        close(name, output, expected[name], atol, rtol)
    for names in [tuple(found)] + [(name,) for name in found] * each:
        losses = (
            sum((of[name].double().cpu() * weights(len(targets), seed)).sum() for seed, name in enumerate(names))
            for of in (found, expected)
        )
        ours, theirs = (torch.autograd.grad(loss, (hidden, weight), retain_graph=True) for loss in losses)
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == hidden.dtype
            close(f"gradient of {names}", a, b, gradient_atol, rtol)


def close(what, ours, theirs, atol, rtol):
    torch.testing.assert_close(
        ours.double().cpu(), theirs.double(), atol=atol, rtol=rtol, msg=lambda message: f"{what}: {message}"
    )


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("temperature", [1.0, 0.6, "each row"])
def test_values_and_gradients_equal_the_dense_oracle(head, temperature, softcap):
    inputs = data()
    if temperature == "each row":
        if isinstance(head, Trl):
            pytest.skip("TRL knows one temperature for all rows")
        temperature = temperatures(ROWS)
    tolerances = {"atol": 2e-5, "gradient_atol": 5e-5, "rtol": 2e-5}
    check(head, inputs, **tolerances, each=True, temperature=temperature, softcap=softcap)


@settings(max_examples=10)
@given(
    rows=st.integers(1, 9),
    vocabulary=st.integers(2, 40),
    tile_rows=st.integers(1, 9),
    tile_columns=st.integers(1, 45),
    chunk=st.integers(1, 400),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("name", ["torch", "triton", "trl"])
def test_no_partition_changes_anything(name, rows, vocabulary, tile_rows, tile_columns, chunk, seed):
    need(name)
    made = {"torch": Torch(chunk), "triton": Triton(tile_rows, tile_columns), "trl": Trl(tile_columns)}
    inputs = data(rows, 4, vocabulary, seed)
    check(made[name], inputs, atol=2e-5, gradient_atol=5e-5, rtol=2e-5)


@pytest.mark.parametrize("scale", [30.0, 0.0])
def test_peaked_and_flat_rows(head, scale):
    """Entropies near 0 keep their digits: what is wrong is the rounding of fp32 logits of size 100, not more."""
    inputs = data(scale=scale)
    check(head, inputs, atol=2e-4, gradient_atol=3e-3, rtol=2e-4)


def test_the_entropy_of_a_nearly_certain_token(head):
    """Logits 1000, 1000 - 12 and 1000 - 14: H = 9.32e-5 nats, of which a sum around 1000 in fp32 would keep nothing."""
    hidden, weight = torch.ones(1, 1), torch.tensor([[988.0], [1000.0], [986.0]])
    found = run(head, hidden, weight, torch.tensor([0]))
    expected = oracle(hidden, weight, torch.tensor([0]))
    assert float(expected["entropies"]) == pytest.approx(9.23e-5, rel=0.02)
    tolerance = 0.01 if not isinstance(head, Trl) else 1.0  # TRL sums around 0
    assert float(found["entropies"]) == pytest.approx(float(expected["entropies"]), rel=tolerance, abs=1e-4 * tolerance)
    assert float(found["logprobs"]) == pytest.approx(-12.0, abs=1e-4)


@pytest.mark.parametrize(
    ("logits", "entropy", "second"),
    [([0.0] * 4, 1.386294, 1.921812), ([1.0, 2.0, 3.0, 4.0], 0.947537, 1.514413)],
)
def test_known_logits(head, logits, entropy, second):
    weight = torch.tensor(logits)[:, None]
    found = run(head, torch.ones(1, 1), weight, torch.tensor([0]))
    assert float(found["entropies"]) == pytest.approx(entropy, abs=1e-6)
    if "second_moments" in found:
        assert float(found["second_moments"]) == pytest.approx(second, abs=2e-6)


def test_bfloat16(head):
    """Logits of size 8 are rounded by up to 2^-6, and everything on the way to a gradient to 8 bits."""
    inputs = data(dtype=torch.bfloat16)
    check(head, inputs, atol=0.06, rtol=0.02, gradient_atol=0.1)
    if getattr(head, "float32_logits", False):
        found, expected = run(head, *inputs), oracle(*inputs)
        for name, output in found.items():
            close(name, output, expected[name], 1e-5, 1e-5)


def test_bfloat16_is_exact_from_the_logits_on(head):
    """Logits that bfloat16 holds exactly: the rest is fp32."""
    weight = torch.randint(-32, 33, (53, 1), generator=torch.Generator().manual_seed(5)) / 8
    inputs = torch.ones(3, 1).bfloat16(), weight.bfloat16(), torch.tensor([0, 20, 52])
    found, expected = run(head, *inputs), oracle(*inputs)
    for name, output in found.items():
        torch.testing.assert_close(output.double().cpu(), expected[name], atol=5e-6, rtol=2e-6)


def test_no_rows(head):
    hidden, weight, targets = data(rows=0)
    found = run(head, hidden, weight, targets)
    assert {name: output.shape for name, output in found.items()} == dict.fromkeys(knows(head), (0,))
    by_hidden, by_weight = torch.autograd.grad(sum(x.sum() for x in found.values()), (hidden, weight))
    assert by_hidden.shape == hidden.shape
    assert torch.equal(by_weight, torch.zeros_like(weight))


def test_only_what_is_asked_for(head):
    hidden, weight, targets = data()
    only = run(head, hidden, weight, targets, entropy="none", second_moment="none")
    assert set(only) == {"logprobs"}
    expected = oracle(hidden, weight, targets)
    values = run(head, hidden, weight, targets, entropy="value", second_moment="none")
    assert values["logprobs"].requires_grad and not values["entropies"].requires_grad
    torch.testing.assert_close(values["entropies"].double().cpu(), expected["entropies"].detach(), atol=1e-5, rtol=1e-5)
    if "second_moments" in knows(head):
        second = run(head, hidden, weight, targets, entropy="none", second_moment="gradient", collision_prob="none")
        assert set(second) == {"logprobs", "second_moments"}
        ours, theirs = (
            torch.autograd.grad(x["second_moments"].sum(), hidden, retain_graph=True)[0] for x in (second, expected)
        )
        torch.testing.assert_close(ours.double(), theirs.double(), atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_what_is_frozen_gets_no_gradient(head, frozen):
    """LoRA trains no output embedding."""
    hidden, weight, targets = data()
    inputs = [x.detach() if name == frozen else x for name, x in (("hidden", hidden), ("weight", weight))]
    trained = inputs[frozen == "hidden"]
    ours, theirs = (
        torch.autograd.grad((x["logprobs"] * torch.arange(float(ROWS))).sum().cpu(), trained)[0]
        for x in (
            {name: x.cpu() for name, x in run(head, *inputs, targets).items()},
            oracle(*inputs, targets),
        )
    )
    torch.testing.assert_close(ours.double(), theirs.double(), atol=1e-4, rtol=1e-5)


def test_the_backward_pass_can_run_twice(head):
    """Nothing that it needs is overwritten."""
    hidden, weight, targets = data()
    loss = sum(x.sum() for x in run(head, hidden, weight, targets).values())
    first, second = (torch.autograd.grad(loss, (hidden, weight), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_graph_without_gradients(head):
    hidden, weight, targets = data()
    with torch.no_grad():
        found = run(head, hidden, weight, targets)
    expected = oracle(hidden, weight, targets)
    for name, output in found.items():
        assert not output.requires_grad
        torch.testing.assert_close(output.double().cpu(), expected[name].detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gradients", [True, False], ids=["grad mode", "no_grad"])
def test_forward_mode_is_right_or_refused(head, gradients):
    """Never zeros: the reference gives the derivative, the others an error."""
    hidden, weight, targets = data()
    rates = torch.randn_like(hidden), torch.randn_like(weight)
    outputs = knows(head)
    with torch.set_grad_enabled(gradients), forward_ad.dual_level():
        duals = [forward_ad.make_dual(x.detach(), rate) for x, rate in zip((hidden, weight), rates, strict=True)]
        if not isinstance(head, Torch):
            with pytest.raises((RequestError, RuntimeError), match=r"forward.mode|forward AD"):
                run(head, *duals, targets)
            return
        found = run(head, *duals, targets, temperature=temperatures(ROWS), softcap=4.0)
        tangents = {name: forward_ad.unpack_dual(output).tangent for name, output in found.items()}
    for name in outputs:
        expected = torch.func.jvp(
            lambda h, w: oracle(h, w, targets, temperatures(ROWS), 4.0)[name],  # noqa: B023
            (hidden.detach(), weight.detach()),
            rates,
        )[1]
        torch.testing.assert_close(tangents[name].double().cpu(), expected.double(), atol=1e-4, rtol=1e-4)


def test_triton_never_invents_a_number_for_a_token_outside_of_the_vocabulary():
    need("triton")
    hidden, weight, targets = data()
    targets[4] = -100
    found = run(Triton(rows=ROWS, columns=16), hidden, weight, targets)["logprobs"]
    assert found.isnan().nonzero().flatten().tolist() == [4]


def test_trl_refuses_what_it_does_not_know():
    need("trl")
    hidden, weight, targets = data()
    with pytest.raises(RequestError, match="no temperatures of single rows"):
        Trl()(hidden, weight, targets, temperature=temperatures(ROWS))
    with pytest.raises(RequestError, match="no second moments"):
        Trl()(hidden, weight, targets, second_moment="value")


def test_collision_probabilities(head):
    """Of every head but trl's, which refuses them, also where they are asked for alone."""
    hidden, weight, targets = data()
    if isinstance(head, Trl):
        with pytest.raises(RequestError, match="knows no collision probabilities"):
            run(head, hidden, weight, targets, collision_prob="value")
        return
    scores = head(hidden.to(DEVICE), weight.to(DEVICE), targets.to(DEVICE), entropy="none", collision_prob="value")
    assert scores.entropies is None and scores.second_moments is None and not scores.collision_probs.requires_grad
    expected = oracle(hidden, weight, targets)
    torch.testing.assert_close(scores.collision_probs.double().cpu(), expected["collision_probs"].detach())
    torch.testing.assert_close(scores.logprobs.double().cpu(), expected["logprobs"], atol=1e-5, rtol=1e-5)
    even = head(torch.zeros(1, 8).to(DEVICE), weight.to(DEVICE), targets[:1].to(DEVICE), collision_prob="value")
    assert float(even.collision_probs) == pytest.approx(1 / 37, rel=1e-6)
