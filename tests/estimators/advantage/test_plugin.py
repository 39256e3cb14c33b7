from __future__ import annotations

from importlib import import_module

import attrs
import pytest
from uncollapse.core.components import NEEDS
from uncollapse.estimators.plugin import register_advantage_estimators

NEEDED = {
    "gae": {"values"},
    "bi_level_gae": {"values", "turns"},
    "grpo": {"groups"},
    "dr_grpo": {"groups"},
    "rloo": {"groups"},
    "opo": {"groups"},
    "reinforce_plus_plus": set(),
    "reinforce_plus_plus_baseline": {"groups"},
    "remax": {"greedy_rewards"},
    "maxrl": {"groups"},
    "pass_at_k": {"groups"},
    "gpg": {"groups"},
    "otb": {"groups", "logprobs", "collision_probs"},
    "gdpo": {"groups", "rewards_by_name"},
    "gigpo": {"groups", "turns"},
    "nsr": set(),
    "w_reinforce": set(),
    "entrocraft": {"entropies"},
    "entropic": {"entropies"},
    "repo": {"logprobs", "entropies"},
    "rae": set(),
}
REQUIRED = {"entropic": {"target": 0.5}}


@pytest.fixture
def registered():
    targets = {}
    register_advantage_estimators(
        lambda name, target, summary="", aliases=(): targets.update({name: (target, summary)})
    )
    return targets


def test_names_and_needs(registered):
    assert set(registered) == set(NEEDED)
    for name, (target, summary) in registered.items():
        module, attribute = target.split(":")
        component = getattr(import_module(module), attribute)
        assert summary
        assert component.needs == NEEDED[name] <= NEEDS
        assert attrs.has(component)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            component(**REQUIRED.get(name, {})).anything = 1
        assert "Source:" in component.__doc__
