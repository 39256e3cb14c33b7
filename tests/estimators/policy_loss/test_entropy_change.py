"""What a loss does to the entropy, to first order and exactly: each action of a policy as often as it is likely.

The entropy change of a small step of gradient descent on the logits is -(grad H . grad loss) per unit of the learning
rate. The batch holds action a as often as the policy that sampled says, so its mean is the exact expectation.
"""

import attrs
import pytest
import torch
from uncollapse.core.components import LossInputs
from uncollapse.core.compose.inner import named_of

COUNTS = torch.tensor([600, 250, 100, 40, 10])
REWARDS = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
SAMPLED = (COUNTS.double() / COUNTS.sum()).log().log_softmax(0)
ROWS = torch.repeat_interleave(torch.arange(len(COUNTS)), COUNTS)
AT_FIRST = (0.0, 0.0, 0.0, 0.0, 0.0)
AFTER_A_STEP = (0.15, -0.1, -0.1, -0.1, 0.29)
"""What was added to the logits since the actions were sampled: good actions are likelier, the rare one by a quarter."""


def entropy_change(spelling, moved):
    """Nats per unit of the learning rate."""
    loss = named_of("policy_loss", spelling, "policy_loss").component
    logits = (SAMPLED + torch.tensor(moved, dtype=torch.float64)).requires_grad_()
    logprobs = (
        logits.log_softmax(0) if any(moved) else SAMPLED + (logits.log_softmax(0) - logits.log_softmax(0).detach())
    )
    entropy = -(logprobs.exp() * logprobs).sum()
    advantages = REWARDS - (SAMPLED.exp() * REWARDS).sum()

    def rows(values):
        return values[ROWS][:, None]

    inputs = LossInputs(
        logprobs=rows(logprobs.detach()),
        old_logprobs=rows(SAMPLED),
        sampler_logprobs=rows(SAMPLED),
        advantages=rows(advantages),
        mask=torch.ones(len(ROWS), 1, dtype=torch.bool),
        entropies=entropy.detach().expand(len(ROWS), 1),
        rows=torch.arange(len(ROWS)),
    )
    inputs = attrs.evolve(inputs, prepared=loss.prepare(inputs) or {}, logprobs=rows(logprobs))
    (of_loss,) = torch.autograd.grad(loss(inputs).loss_B_T.mean(), logits, retain_graph=True)
    (of_entropy,) = torch.autograd.grad(entropy, logits)
    return float(-(of_loss * of_entropy).sum())


def test_the_plain_gradient_makes_entropy_fall_by_the_covariance():
    """By hand: the logits move by pi A, and the gradient of the entropy of a softmax is -pi (log pi + H)."""
    probs, entropy = SAMPLED.exp(), -(SAMPLED.exp() * SAMPLED).sum()
    advantages = REWARDS - (probs * REWARDS).sum()
    expected = -(probs * (SAMPLED + entropy) * probs * advantages).sum()
    assert entropy_change("reinforce", AT_FIRST) == pytest.approx(float(expected), abs=1e-12)
    assert expected < -0.05


@pytest.mark.parametrize(
    "loss",
    [
        *("ppo", "gpg", "cispo", "topr", "dro", "gspo", "luspo", "gmpo", "sapo", "vespo", "dppo_tv", "dppo_kl", "m2po"),
        *("kl_cov(ratio=0.1)", "top_entropy", "off_policy_mask"),
    ],
)
def test_on_the_policy_that_sampled_a_loss_is_the_plain_gradient(loss):
    assert entropy_change(loss, AT_FIRST) == pytest.approx(entropy_change("reinforce", AT_FIRST), abs=1e-12)


@pytest.mark.parametrize("moved", [AT_FIRST, AFTER_A_STEP])
def test_holding_back_tokens_of_high_covariance_slows_the_fall(moved):
    """Clip-Cov: the likely action with the good reward is the one with high covariance."""
    held_back = entropy_change("clip_cov(ratio=0.05, cov_low=0.1)", moved)
    assert held_back > entropy_change("ppo(clip_low=1, clip_high=1, dual_clip=null)", moved) + 1e-3


def test_a_penalty_on_tokens_of_high_covariance_slows_the_fall():
    plain = entropy_change("ppo(clip_low=1, clip_high=100, dual_clip=null)", AFTER_A_STEP)
    changes = [entropy_change(f"kl_cov(ratio={ratio})", AFTER_A_STEP) for ratio in (0.01, 0.1, 0.5)]
    assert changes == sorted(changes)
    assert changes[0] > plain + 1e-3


def test_a_higher_bound_lets_rare_good_actions_go_on_growing():
    """Clip-higher (DAPO): the rare action, 1.25 times as likely as it was, still has a gradient."""
    assert entropy_change("ppo(clip_high=0.28)", AFTER_A_STEP) > entropy_change("ppo(clip_high=0.2)", AFTER_A_STEP)
