"""What a loss does to the entropy, to first order and exactly: each action of a policy as often as it is likely.

The entropy change of a small step of gradient descent on the logits is -(grad H . grad loss) per unit of the learning
rate. The batch holds action a as often as the policy that sampled says, so its mean is the exact expectation.
"""

import re
from pathlib import Path

import attrs
import pytest
import torch
from uncollapse.core.components import LossInputs, Scores
from uncollapse.core.compose.inner import named_of
from uncollapse.plugins.training.step.batch import Batch
from uncollapse.plugins.training.step.losses import PolicyObjective

COUNTS = torch.tensor([600, 250, 100, 40, 10])
REWARDS = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
SAMPLED = (COUNTS.double() / COUNTS.sum()).log().log_softmax(0)
ROWS = torch.repeat_interleave(torch.arange(len(COUNTS)), COUNTS)
AT_FIRST = (0.0, 0.0, 0.0, 0.0, 0.0)
AFTER_A_STEP = (0.15, -0.1, -0.1, -0.1, 0.29)
"""What was added to the logits since the actions were sampled: good actions are likelier, the rare one by a quarter."""


def entropy_change(spelling, moved, entropy_coef=0.0, rewards=REWARDS):
    """Nats per unit of the learning rate."""
    loss = named_of("policy_loss", spelling, "policy_loss").component
    logits = (SAMPLED + torch.tensor(moved, dtype=torch.float64)).requires_grad_()
    logprobs = (
        logits.log_softmax(0) if any(moved) else SAMPLED + (logits.log_softmax(0) - logits.log_softmax(0).detach())
    )
    entropy = -(logprobs.exp() * logprobs).sum()
    advantages = rewards - (SAMPLED.exp() * rewards).sum()

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
    inputs = attrs.evolve(inputs, prepared=loss.prepare(inputs) or {})
    objective = PolicyObjective(loss, entropy_coef)
    batch = Batch(
        tokens=torch.zeros(len(ROWS), 1, dtype=torch.long),
        mask=inputs.mask,
        lengths=torch.ones(len(ROWS), dtype=torch.long),
        weights=torch.full((len(ROWS), 1), 1 / len(ROWS), dtype=torch.float64),
        old_logprobs=inputs.old_logprobs,
        sampler_logprobs=inputs.sampler_logprobs,
        advantages=inputs.advantages,
        rows=inputs.rows,
        prepared=inputs.prepared,
    )
    scores = Scores(logprobs=rows(logprobs), entropies=entropy.expand(len(ROWS), 1))
    (of_loss,) = torch.autograd.grad(objective(scores, batch)[0], logits, retain_graph=True)
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


@pytest.mark.parametrize("moved", [AT_FIRST, AFTER_A_STEP])
def test_the_entropy_bonus_raises_entropy_by_its_squared_gradient(moved):
    """By hand: the gradient of the entropy of a softmax is -p (log p + H), and the bonus goes along it."""
    logprobs = (SAMPLED + torch.tensor(moved, dtype=torch.float64)).log_softmax(0)
    probs, entropy = logprobs.exp(), -(logprobs.exp() * logprobs).sum()
    steepest = float((probs * (logprobs + entropy)).square().sum())
    nothing = torch.zeros_like(REWARDS)
    for coef in (0.01, 1.0, -0.5):
        assert entropy_change("ppo", moved, coef, nothing) == pytest.approx(coef * steepest, abs=1e-7)
        added = entropy_change("ppo", moved, coef) - entropy_change("ppo", moved)
        assert added == pytest.approx(coef * steepest, abs=1e-7)
    assert steepest > 0.05


DOCS = Path(__file__).parents[3] / "docs" / "losses.md"
SETTINGS = {"clip_cov": "clip_cov(ratio=0.05, cov_low=0.1)", "kl_cov": "kl_cov(ratio=0.1)"}
"""Names whose defaults hold back next to nothing of five actions, with what the page says that it has taken instead."""


def rows_of_page():
    found = re.findall(r"^\| (`[a-z0-9_`, ]+`) \|.*\| (-?\d[\d.]*) \|$", DOCS.read_text("utf-8"), re.M)
    return [(name, float(number)) for names, number in found for name in re.findall("`([a-z0-9_]+)`", names)]


@pytest.mark.parametrize(("name", "number"), rows_of_page())
def test_the_page_has_the_numbers(name, number):
    assert entropy_change(SETTINGS.get(name, name), AFTER_A_STEP) == pytest.approx(number, abs=5.1e-4)


def test_the_page_has_all_losses_but_the_wrappers():
    assert len(rows_of_page()) >= 16
