"""An environment that fails in one group, and a loss that measures what it happens to see."""

import attrs
from uncollapse.core.hookspecs import hookimpl
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.environments.bandit import Bandit


@attrs.frozen
class Failing(Bandit):
    at: int = -1

    def make(self, seed, member=0):
        if seed == self.at:
            raise ValueError("the row is too long")
        return super().make(seed, member)


@attrs.frozen
class Curious(Ppo):
    """Says 1 of the tokens of some micro-batches, and 2 of those of the others by another name."""

    def __call__(self, inputs):
        loss, metrics = super().__call__(inputs)
        number, count = 1 + int(1e4 * inputs.logprobs.detach().sum()) % 2, inputs.mask.sum()
        return loss, {**metrics, f"says_{number}": (number * count, count)}


@hookimpl
def register_environments(register):
    register("failing", Failing)


@hookimpl
def register_policy_losses(register):
    register("curious", Curious)
