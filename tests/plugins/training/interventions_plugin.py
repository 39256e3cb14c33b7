"""A plugin with entropy controllers, a reward shaping and an episode filter."""

import attrs
import torch
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
class Following(EntropyController):
    """Makes the entropy of the sampling policy the coefficient."""

    needs = frozenset({"entropies"})

    def start(self, coef, steps):
        return FollowingSession(coef)


class FollowingSession(Session):
    def update(self, entropy, step):
        self.coef = entropy


@attrs.frozen
class Brief(RewardShaping):
    """Takes a quarter for each sampled token."""

    def shape(self, inputs):
        return inputs.rewards_E - 0.25 * inputs.lengths_E - inputs.step


@attrs.frozen
class Second(EpisodeFilter):
    """Keeps every second episode of each group."""

    def select(self, rollouts):
        groups_E = rollouts.groups_of_episodes()
        places = [int((groups_E[:number] == group).sum()) for number, group in enumerate(groups_E)]
        return torch.tensor(places) % 2 == 0


@hookimpl
def register_entropy_controllers(register):
    register("halving", Halving)
    register("following", Following)


@hookimpl
def register_reward_shapings(register):
    register("brief", Brief)


@hookimpl
def register_episode_filters(register):
    register("second", Second)
