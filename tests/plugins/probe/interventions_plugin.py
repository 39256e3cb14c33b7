"""A plugin with an entropy controller, a reward shaping and an episode filter."""

import attrs
from uncollapse.api import EntropyController, EntropyControllerSession, EpisodeFilter, RewardShaping, hookimpl


@attrs.frozen
class Halving(EntropyController):
    """Halves the coefficient in every step."""

    def start(self, coef, steps):
        return Session(coef)


class Session(EntropyControllerSession):
    def __init__(self, coef):
        self.coef = coef

    def update(self, entropy, step):
        self.coef /= 2

    def state_dict(self):
        return {"coef": self.coef}

    def load_state_dict(self, state):
        self.coef = state["coef"]


@attrs.frozen
class Brief(RewardShaping):
    """Takes a quarter for each sampled token."""

    def shape(self, inputs):
        return inputs.rewards_E - 0.25 * inputs.lengths_E - inputs.step


@attrs.frozen
class First(EpisodeFilter):
    """Keeps the first episode."""

    def select(self, rollouts):
        return rollouts.raw_rewards_E.cumsum(0) == rollouts.raw_rewards_E.cumsum(0)


@hookimpl
def register_entropy_controllers(register):
    register("halving", Halving)


@hookimpl
def register_reward_shapings(register):
    register("brief", Brief)


@hookimpl
def register_episode_filters(register):
    register("first", First)
