"""What passes say of parameters and outputs that have nothing to do with each other, and of weights, by hand."""

import math

import pytest
import torch
from torch import nn
from uncollapse.estimators.variance.terms import Terms
from uncollapse.plugins.probe.estimation.measured_change import Measured, Weighting
from uncollapse.plugins.probe.estimation.passes import Passes
from uncollapse.plugins.training.processes.ranks import Ranks
from uncollapse.plugins.training.step.batch import Batch

ONE = Ranks(0, 1, torch.device("cpu"))
TOKENS = torch.tensor([[5, 1, 2], [6, 3, 0]])
MASK = torch.tensor([[False, True, True], [False, True, False]])
BATCH = Batch(tokens=TOKENS, mask=MASK, lengths=torch.tensor([3, 2]))


class Odd(nn.Module):
    """Log-probs are ``used`` times the token; entropies depend on nothing that trains; ``idle`` is never looked at."""

    def __init__(self):
        super().__init__()
        self.used = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.idle = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, batch, entropy="value"):
        sampled = torch.where(batch.mask, batch.tokens.double(), 0.0)
        return {"logprobs": self.used * sampled, "entropies": 2 * sampled.detach()}


@pytest.fixture
def passes():
    return Passes(Odd(), BATCH, 1, ONE)


def test_a_parameter_that_a_loss_does_not_depend_on_has_the_gradient_0(passes):
    found = passes.loss_gradient(lambda scores, part: 3 * scores["logprobs"])
    assert float(found["used"]) == 3 * (1 + 2 + 3)
    assert found["idle"].tolist() == [0.0, 0.0, 0.0] and found["idle"].dtype == torch.float64


def test_an_output_that_does_not_move_has_the_rate_0(passes):
    found = passes.forward_mode({"used": torch.tensor(2.0), "idle": torch.full((3,), 7.0)})
    sampled = torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 0.0]]).double()
    assert torch.equal(found["logprobs_rate"], 2 * sampled) and torch.equal(found["logprobs"], 0.5 * sampled)
    assert torch.equal(found["entropies_rate"], torch.zeros(2, 3).double())
    assert torch.equal(found["entropies"], 2 * sampled)
    rates = passes.loss_rates(lambda scores, part: scores["entropies"], {"used": torch.tensor(2.0), "idle": TOKENS[0]})
    assert torch.equal(rates, torch.zeros(2, 3).double())


def test_a_step_without_a_length_is_none(passes):
    step = {"used": torch.tensor(2.0), "idle": torch.ones(3)}
    sampled = torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 0.0]]).double()
    assert torch.equal(passes.forward(step)["logprobs"], 0.5 * sampled)
    assert torch.equal(passes.forward(step, 0.25)["logprobs"], 1.0 * sampled)


def test_what_is_said_of_importance_weights():
    log_weights = torch.tensor([0.0, 0.5, -0.5, 1.0], dtype=torch.float64)
    used, done = Weighting("clip", math.exp(0.75)).apply(log_weights)
    assert used.tolist() == pytest.approx([0.0, 0.5, -0.5, 0.75]) and done == {"clipped_fraction": 0.25}
    H = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = Measured(0.1, log_weights, used, H.double(), done, "clip").weights_of(Terms(H=H, T=torch.ones(4)))
    assert found["logw"] | {"histogram": None} == {
        "mean": pytest.approx(0.25),
        "std": pytest.approx(math.sqrt((0.25**2 + 0.25**2 + 0.75**2 + 0.75**2) / 3)),
        "min": -0.5,
        "max": 1.0,
        "histogram": None,
    }
    weights, clipped = ([math.exp(x) for x in logs.tolist()] for logs in (log_weights, used))
    mean = sum(weights) / 4
    assert found["mean_w"] == pytest.approx(mean)
    assert found["se_mean_w"] == pytest.approx(math.sqrt(sum((w - mean) ** 2 for w in weights) / 12))
    assert (found["w_max"], found["w_min"]) == pytest.approx((math.exp(0.75), math.exp(-0.5)))
    ess = sum(clipped) ** 2 / sum(w * w for w in clipped)
    assert (found["ess"], found["ess_fraction"]) == pytest.approx((ess, ess / 4))
    assert found["clipped_fraction"] == 0.25 and sum(found["logw"]["histogram"]["counts"]) == 4
    one = Measured(0.1, log_weights[:1], used[:1], H[:1].double(), {}, "snis")
    assert math.isnan(one.weights_of(Terms(H=H[:1], T=torch.ones(1)))["logw"]["std"])
