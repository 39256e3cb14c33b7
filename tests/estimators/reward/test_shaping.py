import torch
from uncollapse.core.registry import registry
from uncollapse.estimators.reward.shaping import NoShaping
from uncollapse.testing import samples


def test_no_shaping_leaves_rewards_and_is_never_asked():
    inputs = samples.shaping_inputs()
    shaped_E = NoShaping().shape(inputs)
    assert torch.equal(shaped_E, inputs.rewards_E)
    assert shaped_E is not inputs.rewards_E
    shaping = registry().create("reward_shaping", "none")
    assert shaping == NoShaping()
    assert shaping.idle
    assert shaping.needs == frozenset()
