"""Advantages, held to those that another implementation computes (tests/peers)."""

import json
from pathlib import Path

import pytest
import torch
from uncollapse.core.components import CreditInputs
from uncollapse.core.compose.inner import named_of
from uncollapse.core.registry import registry

PEERS = Path(__file__).parents[2] / "peers"
CONTENT = json.loads((PEERS / "verl_advantages.json").read_text())
BATCHES = {
    name: {
        key: torch.tensor(value, dtype=torch.float64 if key not in ("mask", "groups") else None)
        for key, value in batch.items()
    }
    for name, batch in CONTENT["inputs"].items()
}


@pytest.mark.parametrize("case", CONTENT["cases"], ids=lambda case: f"{case['theirs']}-{case['ours']}-{case['inputs']}")
def test_advantages_and_returns_are_those_of_the_peer(case):
    estimator = named_of("advantage", case["ours"], "advantage").component
    result = estimator.compute(CreditInputs(**BATCHES[case["inputs"]]))
    for name in ("advantages", "returns"):
        expected = torch.tensor(case[name], dtype=torch.float64)
        assert bool((expected != 0).any())
        torch.testing.assert_close(getattr(result, name), expected, atol=1e-6, rtol=1e-6)


def test_names_of_the_peers_estimators_are_known():
    for alias, name in (("grpo_passk", "pass_at_k"), ("optimal_token_baseline", "otb"), ("tir_otb", "otb")):
        assert registry().create("advantage", alias) == registry().create("advantage", name)
