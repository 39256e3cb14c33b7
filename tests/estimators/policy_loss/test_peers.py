"""Policy losses, held to the values and gradients that other implementations compute (tests/peers)."""

import json
from pathlib import Path

import attrs
import pytest
import torch
from uncollapse.core.components import LossInputs
from uncollapse.core.compose.inner import named_of
from uncollapse.core.registry import registry

PEERS = Path(__file__).parents[2] / "peers"


def cases():
    for file in ("verl_losses.json", "trl_losses.json"):
        content = json.loads((PEERS / file).read_text())
        for case in content["cases"]:
            name = f"{content['package']}-{case['theirs']}-{case['ours']}-{case['inputs']}"
            yield pytest.param(case, content["inputs"][case["inputs"]], id=name)


@pytest.mark.parametrize(("case", "given"), list(cases()))
def test_value_and_gradient_are_those_of_the_peer(case, given):
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in given.items() if name != "mask"}
    mask = torch.tensor(given["mask"])
    inputs = LossInputs(**tensors, mask=mask, groups=torch.arange(len(mask)), rows=torch.arange(len(mask)))
    loss = named_of("policy_loss", case["ours"], "policy_loss").component
    aggregation = registry().create("loss_aggregation", case["aggregation"])
    prepared = loss.prepare(inputs) or {}
    logprobs = tensors["logprobs"].clone().requires_grad_()
    result = loss(attrs.evolve(inputs, logprobs=logprobs, prepared=prepared))
    total = (aggregation.weights(mask, mask.shape[1]).double() * result.loss_B_T).sum()
    total.backward()
    assert total.item() == pytest.approx(case["loss"], abs=1e-6)
    torch.testing.assert_close(logprobs.grad, torch.tensor(case["gradient"], dtype=torch.float64), atol=1e-6, rtol=1e-6)
