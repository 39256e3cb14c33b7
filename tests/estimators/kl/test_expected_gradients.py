"""What each variant's gradient is on average: exact enumeration in float64, on- and off-policy, per importance weight.

The policy is softmax(theta) over four tokens. Golden values were computed independently of this code.
"""

import pytest
import torch
import uncollapse
from uncollapse.estimators.kl.weights import importance_weight

THETA = torch.tensor([0.3, -0.7, 1.1, 0.0], dtype=torch.float64)
OLD_THETA = torch.tensor([-0.2, 0.4, 0.5, 0.1], dtype=torch.float64)
REF = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)

REVERSE = [0.089227, -0.169718, 0.253445, -0.172953]
FORWARD = [0.130721, -0.315122, 0.313479, -0.129078]
ZERO = [0.0] * 4


def gradient_of(function) -> torch.Tensor:
    """The gradient at THETA of ``function(log-probs of the four tokens)``."""
    theta = THETA.clone().requires_grad_()
    function(theta.log_softmax(0)).backward()
    return theta.grad


def term(name, logprobs, weight, old_logprobs):
    value = uncollapse.registry().create("kl", name)(logprobs, REF.log())
    factor = importance_weight(logprobs, old_logprobs, weight)
    return value if factor is None else factor * value


def expected_loss_gradient(name, weight="none", old_theta=THETA) -> torch.Tensor:
    """Mean over tokens of the sampling policy of the gradient of the loss term."""
    old_logprobs = old_theta.log_softmax(0)
    return gradient_of(lambda logprobs: (old_logprobs.exp() * term(name, logprobs, weight, old_logprobs)).sum())


def expected_reward_gradient(name) -> torch.Tensor:
    """Mean of value * grad log-prob: the policy gradient of a KL that is (minus) a reward."""
    value = uncollapse.registry().create("kl", name)(THETA.log_softmax(0), REF.log())
    return gradient_of(lambda logprobs: (THETA.softmax(0) * value * logprobs).sum())


TRUE_REVERSE = gradient_of(lambda logprobs: (logprobs.exp() * (logprobs - REF.log())).sum())
TRUE_FORWARD = gradient_of(lambda logprobs: (REF * (REF.log() - logprobs)).sum())
MEAN_K2 = gradient_of(lambda logprobs: (logprobs.exp() * (logprobs - REF.log()) ** 2 / 2).sum())
MEAN_ABS = gradient_of(lambda logprobs: (logprobs.exp() * (logprobs - REF.log()).abs()).sum())
TWICE_TOTAL_VARIATION = gradient_of(lambda logprobs: (logprobs.exp() - REF).abs().sum())


def close(actual, expected, tolerance=1e-12) -> bool:
    return torch.allclose(actual, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


def test_the_true_gradients_are_the_golden_ones():
    assert close(TRUE_REVERSE, REVERSE, 1e-6)
    assert close(TRUE_FORWARD, FORWARD, 1e-6)


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("kl", 0.449309),
        ("kl+", 0.449309),
        ("low_var_kl", 0.449309),
        ("low_var_kl+", 0.449309),
        ("mse", 0.437926),
        ("mse+", 0.437926),
    ],
)
def test_mean_values(name, mean):
    value = uncollapse.registry().create("kl", name)(THETA.log_softmax(0), REF.log())
    assert float((THETA.softmax(0) * value).sum()) == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("name", ["abs", "abs+"])
def test_the_mean_of_abs_is_too_large(name):
    value = uncollapse.registry().create("kl", name)(THETA.log_softmax(0), REF.log())
    assert float((THETA.softmax(0) * value).sum()) > 0.449309 + 0.3


@pytest.mark.parametrize("weight", ["none", "detached"])
@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("kl", ZERO),
        ("kl+", REVERSE),
        ("abs+", REVERSE),
        ("mse", REVERSE),
        ("mse+", REVERSE),
        ("low_var_kl", FORWARD),
        ("low_var_kl+", REVERSE),
    ],
)
def test_in_the_loss_on_policy(name, golden, weight):
    assert close(expected_loss_gradient(name, weight), golden, 1e-6)


@pytest.mark.parametrize("old_theta", [THETA, OLD_THETA])
@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("kl", torch.zeros(4)),
        ("kl+", TRUE_REVERSE),
        ("abs", TWICE_TOTAL_VARIATION),
        ("abs+", TRUE_REVERSE),
        ("mse", TRUE_REVERSE),
        ("mse+", TRUE_REVERSE),
        ("low_var_kl", TRUE_FORWARD),
        ("low_var_kl+", TRUE_REVERSE),
    ],
)
def test_in_the_loss_with_a_detached_weight_off_policy_is_as_on_policy(name, exact, old_theta):
    assert close(expected_loss_gradient(name, "detached", old_theta), exact)


@pytest.mark.parametrize("old_theta", [THETA, OLD_THETA])
@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("kl", TRUE_REVERSE),
        ("kl+", 2 * TRUE_REVERSE),
        ("abs", MEAN_ABS),
        ("abs+", MEAN_ABS - TWICE_TOTAL_VARIATION + TRUE_REVERSE),
        ("mse", MEAN_K2),
        ("mse+", MEAN_K2),
        ("low_var_kl", TRUE_REVERSE),
        ("low_var_kl+", 2 * TRUE_REVERSE - TRUE_FORWARD),
    ],
)
def test_in_the_loss_with_a_differentiable_weight(name, exact, old_theta):
    assert close(expected_loss_gradient(name, "differentiable", old_theta), exact)


@pytest.mark.parametrize("name", ["kl+", "abs+", "mse", "low_var_kl+"])
def test_in_the_loss_off_policy_without_a_weight_none_is_right(name):
    assert not close(expected_loss_gradient(name, "none", OLD_THETA), TRUE_REVERSE, 0.01)


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("kl", TRUE_REVERSE),
        ("kl+", TRUE_REVERSE),
        ("abs", MEAN_ABS - TWICE_TOTAL_VARIATION),
        ("abs+", MEAN_ABS - TWICE_TOTAL_VARIATION),
        ("mse", MEAN_K2 - TRUE_REVERSE),
        ("mse+", MEAN_K2 - TRUE_REVERSE),
        ("low_var_kl", TRUE_REVERSE - TRUE_FORWARD),
        ("low_var_kl+", TRUE_REVERSE - TRUE_FORWARD),
    ],
)
def test_in_the_reward(name, exact):
    assert close(expected_reward_gradient(name), exact)


def test_low_var_kl_in_the_reward_is_the_golden_wrong_one():
    assert close(expected_reward_gradient("low_var_kl"), [-0.041494, 0.145404, -0.060035, -0.043876], 1e-6)


@pytest.mark.parametrize("weight", ["none", "detached", "differentiable"])
@pytest.mark.parametrize("name", ["kl", "abs", "mse", "low_var_kl", "kl+", "abs+", "low_var_kl+"])
def test_the_mean_over_samples_agrees_with_the_enumeration(name, weight):
    n = 20_000
    generator = torch.Generator().manual_seed(7)
    samples_n = torch.multinomial(OLD_THETA.softmax(0), n, replacement=True, generator=generator)
    old_logprobs = OLD_THETA.log_softmax(0)
    per_token = torch.stack(
        [gradient_of(lambda logprobs, a=a: term(name, logprobs, weight, old_logprobs)[a]) for a in range(len(THETA))]
    )
    gradients_n = per_token[samples_n]
    standard_error = gradients_n.std(0) / n**0.5
    error = (gradients_n.mean(0) - expected_loss_gradient(name, weight, OLD_THETA)).abs()
    assert bool((error < 5 * standard_error).all())
    assert bool((standard_error > 0).all())


class TestTwoTokens:
    """Two tokens, the second one's distributions depending on the first: what terms of the loss leave out."""

    FIRST_REF = torch.tensor([0.7, 0.3], dtype=torch.float64)
    SECOND_REF = torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    THETA = torch.tensor([0.4, -0.3, 0.2, 0.1, -1.0, 1.5], dtype=torch.float64)

    def gradient(self, function) -> torch.Tensor:
        """Of ``function(first log-probs [2], second log-probs [2, 2] by first token)``."""
        theta = self.THETA.clone().requires_grad_()
        function(theta[:2].log_softmax(0), theta[2:].reshape(2, 2).log_softmax(1)).backward()
        return theta.grad

    def second_kl(self, second):
        """KL of the second token by first token: [2]."""
        return (second.exp() * (second - self.SECOND_REF.log())).sum(1)

    def first_kl(self, first):
        return (first.exp() * (first - self.FIRST_REF.log())).sum()

    def true_gradient(self) -> torch.Tensor:
        """Of the KL between the distributions of both tokens."""
        return self.gradient(lambda a, ab: self.first_kl(a) + (a.exp() * self.second_kl(ab)).sum())

    def dropped(self) -> torch.Tensor:
        """The part through which the first token decides how far from the reference the second one is."""
        return self.gradient(lambda a, ab: (a.exp() * self.second_kl(ab).detach()).sum())

    def rows(self, first, second):
        """All four sequences as rows: log-probs [4, 2], reference log-probs [4, 2], probabilities [4]."""
        logprobs = torch.stack([first.repeat_interleave(2), second.flatten()], 1)
        ref_logprobs = torch.stack([self.FIRST_REF.log().repeat_interleave(2), self.SECOND_REF.log().flatten()], 1)
        return logprobs, ref_logprobs, logprobs.detach().sum(1).exp()

    @pytest.mark.parametrize(
        ("name", "weight"),
        [("mse", "none"), ("kl+", "none"), ("kl", "differentiable"), ("low_var_kl", "differentiable")],
    )
    def test_a_term_of_the_loss_drops_the_future(self, name, weight):
        def loss(first, second):
            logprobs, ref_logprobs, probabilities = self.rows(first, second)
            value = uncollapse.registry().create("kl", name)(logprobs, ref_logprobs)
            factor = importance_weight(logprobs, logprobs.detach(), weight)
            value = value if factor is None else factor * value
            return (probabilities[:, None] * value).sum()

        assert close(self.gradient(loss), self.true_gradient() - self.dropped())
        assert not close(self.dropped(), torch.zeros(6), 0.05)

    def test_in_the_reward_nothing_is_dropped(self):
        def surrogate(first, second):
            logprobs, ref_logprobs, probabilities = self.rows(first, second)
            value = uncollapse.registry().create("kl", "kl")(logprobs, ref_logprobs).detach()
            to_go = value.flip(1).cumsum(1).flip(1)
            return (probabilities[:, None] * to_go * logprobs).sum()

        assert close(self.gradient(surrogate), self.true_gradient())
