"""What an estimator does to the entropy, to first order and exactly: every group of three draws from a softmax.

The policy has four actions, and the batch holds each ordered group of three as often as it is drawn (1,000 groups). So
the statistics of the batch, and the mean of the policy gradient, are the exact ones. The change of the entropy is that
of a small step of gradient ascent on the logits, in nats per unit of the learning rate.
"""

import itertools
import re
from pathlib import Path

import pytest
import torch
from uncollapse.core.components import CreditInputs
from uncollapse.core.compose.inner import named_of

PROBS = (6, 2, 1, 1)
"""Tenths."""
GROUPS = torch.tensor(list(itertools.product([0] * 6 + [1] * 2 + [2, 3], repeat=3)))
LIKELY_IS_RIGHT, LIKELY_IS_WRONG = (1.0, -1.0, -1.0, 1.0), (-1.0, 1.0, -1.0, 1.0)
DOCS = Path(__file__).parents[3] / "docs"


def logits_of_policy():
    return torch.tensor(PROBS, dtype=torch.float64).div(10).log().requires_grad_()


def advantages_of(spelled, rewards):
    """[3000], one for each draw."""
    probs = torch.tensor(PROBS, dtype=torch.float64) / 10
    actions = GROUPS.flatten()
    column = torch.ones(len(actions), 1)
    earned = torch.tensor(rewards, dtype=torch.float64)
    entropy = -float((probs * probs.log()).sum())
    batch = CreditInputs(
        rewards=earned[actions][:, None],
        mask=column > 0,
        groups=torch.arange(len(GROUPS)).repeat_interleave(3),
        values=column * float((probs * earned).sum()),
        turns=column.long() * 0,
        states=column.long(),
        episodes=torch.arange(len(actions)),
        greedy_rewards=column[:, 0] * rewards[0],
        logprobs=probs.log()[actions][:, None],
        entropies=column * entropy,
        collision_probs=column * float(probs.square().sum()),
    )
    return named_of("advantage", spelled, "advantage").component.compute(batch).advantages[:, 0].double()


def entropy_change(advantages_B):
    """Nats per unit of the learning rate."""
    logits = logits_of_policy()
    logprobs = logits.log_softmax(0)
    (of_objective,) = torch.autograd.grad((advantages_B * logprobs[GROUPS.flatten()]).mean(), logits, retain_graph=True)
    (of_entropy,) = torch.autograd.grad(-(logprobs.exp() * logprobs).sum(), logits)
    return float((of_objective * of_entropy).sum())


def change(spelled, rewards):
    return entropy_change(advantages_of(spelled, rewards))


def test_a_baseline_changes_nothing_in_expectation():
    """By hand: the logits move by pi (r - mean r), and the gradient of the entropy of a softmax is -pi (log pi + H)."""
    probs = torch.tensor(PROBS, dtype=torch.float64) / 10
    for rewards in (LIKELY_IS_RIGHT, LIKELY_IS_WRONG):
        earned = torch.tensor(rewards, dtype=torch.float64)
        above = earned - (probs * earned).sum()
        entropy = -(probs * probs.log()).sum()
        expected = -float((probs * (probs.log() + entropy) * probs * above).sum())
        assert entropy_change(earned[GROUPS.flatten()]) == pytest.approx(expected, abs=1e-9)
        for spelled in ("rloo", "gae(whiten=false)", "remax"):
            assert change(spelled, rewards) == pytest.approx(expected, abs=1e-6), spelled
        # the mean holds the episode itself
        assert change("dr_grpo", rewards) == pytest.approx(expected * 2 / 3, abs=1e-6)


def halves(rewards):
    """[3000] x 2: the rewards of successes alone, and those of failures alone."""
    raw = torch.tensor(rewards, dtype=torch.float64)[GROUPS.flatten()]
    return raw.clamp(min=0), raw.clamp(max=0)


@pytest.mark.parametrize("rewards", [LIKELY_IS_RIGHT, LIKELY_IS_WRONG])
def test_to_first_order_successes_and_failures_teach_the_same(rewards):
    """Rewards 1 and -1 differ from their halves by a constant, and the expected gradient of a constant is 0."""
    of_successes, of_failures = map(entropy_change, halves(rewards))
    assert of_successes == pytest.approx(of_failures, abs=1e-12)
    assert change("nsr", rewards) == pytest.approx(of_failures, abs=1e-7)
    assert change("w_reinforce", rewards) == pytest.approx(1.1 * of_failures, abs=1e-7)


def entropy_after(advantages_B, rate):
    """Nats: the expected change of the entropy by a whole step at this learning rate on a batch of one group."""
    logits = logits_of_policy().detach()
    probs = logits.exp()
    draws = torch.eye(len(PROBS), dtype=torch.float64)[GROUPS]
    gradients = (advantages_B.reshape(-1, 3, 1) * (draws - probs)).mean(1)
    moved = (logits + rate * gradients).log_softmax(-1)
    return float(-(moved.exp() * moved).sum(-1).mean() + (probs * logits).sum())


@pytest.mark.parametrize("rewards", [LIKELY_IS_RIGHT, LIKELY_IS_WRONG])
def test_after_a_large_step_failures_have_kept_more_entropy_than_successes(rewards):
    """NSR against PSR (Zhu et al. 2025): successes of a batch pile up on the same action, failures do not."""
    of_successes, of_failures = halves(rewards)
    assert entropy_after(of_failures, 3.0) > entropy_after(of_successes, 3.0) + 0.03
    assert entropy_after(of_successes, 1e-4) == pytest.approx(1e-4 * entropy_change(of_successes), rel=1e-3)


def test_the_page_has_the_numbers_of_a_large_step():
    page = " ".join((DOCS / "advantages.md").read_text("utf-8").split())
    numbers = [f"{entropy_after(half, 3.0):.3f}" for half in reversed(halves(LIKELY_IS_RIGHT))]
    assert f"by {numbers[0]} nats with the failures alone (`nsr`), and by {numbers[1]} with the successes alone" in page


def rows_of_page():
    table = (DOCS / "advantages.md").read_text("utf-8").partition("### Entropy")[2].partition("\n###")[0]
    found = re.findall(r"^\| (`[a-z_`, ]+`) \| (-?\d\.\d+) \| (-?\d\.\d+) \|$", table, re.M)
    return [(name, *map(float, numbers)) for names, *numbers in found for name in re.findall("`([a-z_]+)`", names)]


@pytest.mark.parametrize(("name", "right", "wrong"), rows_of_page())
def test_the_page_has_the_numbers(name, right, wrong):
    assert [right, wrong] == pytest.approx([change(name, LIKELY_IS_RIGHT), change(name, LIKELY_IS_WRONG)], abs=5.1e-4)


def test_the_page_has_most_estimators():
    assert {"gae", "grpo", "maxrl", "pass_at_k", "otb", "nsr", "entrocraft"} <= {name for name, *_ in rows_of_page()}
    assert len(rows_of_page()) >= 17
