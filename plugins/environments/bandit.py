"""In Bandit one chooses once, between a steady and a risky arm."""

from __future__ import annotations

from typing import Literal, get_args

import attrs
from attrs.validators import and_, ge, in_, le

from ...core.components import Env, Environment, Step
from .common import refuse_after_end, seeded
from .metrics import ACCEPTED

Split = Literal["train", "validation"]

PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (
        ("Librarian", "Stuntman"),
        ("Accountant", "Gambler"),
        ("Postman", "Explorer"),
        ("Archivist", "Daredevil"),
        ("Baker", "Treasure hunter"),
        ("Notary", "Racing driver"),
        ("Gardener", "Prospector"),
        ("Bookkeeper", "Speculator"),
        ("Tailor", "Smuggler"),
        ("Pharmacist", "Test pilot"),
        ("Night porter", "Bounty hunter"),
        ("Clockmaker", "Oil driller"),
    ),
    "validation": (
        ("Civil servant", "Adventurer"),
        ("Dentist", "Poker player"),
        ("Ticket inspector", "Mercenary"),
        ("Cobbler", "Inventor"),
        ("Proofreader", "Mountaineer"),
        ("Surveyor", "Founder"),
        ("Dairy farmer", "Privateer"),
        ("Cashier", "Acrobat"),
    ),
}
"""Names of (steady, risky) arms by split; no name is in both splits."""


@attrs.frozen
class Bandit(Environment):
    """Choose between two arms named after professions: a steady one that always pays ``low``, and a risky one.

    The risky arm pays ``high`` with probability ``probability``, otherwise 0; choosing it is success, even when it pays
    nothing, because it pays more on average (0.25 against 0.1). One choice ends the episode. The answer is the name of
    an arm as free text, without regard to case; any other text earns nothing.

    Metric: ``share_of_played_actions_accepted`` (the text names an arm).

    The seed fixes the two names and their order, so all members of a group see the same prompt; what the risky arm pays
    depends on seed and member. (In RAGEN names and order differ within a group, which mixes the prompts of a baseline.)
    Training and validation have different names (12 and 8 pairs): a policy that learnt to take risks, and not names,
    succeeds on both.
    """

    split: Split = attrs.field(default="train", validator=in_(get_args(Split)))
    """Set of names: ``train`` has 12 pairs, ``validation`` 8 others."""
    low: float = attrs.field(default=0.1, validator=and_(ge(-1e6), le(1e6)))
    """Payoff of the steady arm."""
    high: float = attrs.field(default=1.0, validator=and_(ge(-1e6), le(1e6)))
    """Payoff of the risky arm, when it pays."""
    probability: float = attrs.field(default=0.25, validator=and_(ge(0), le(1)))
    """Probability that the risky arm pays."""

    actions = None
    concurrency = 1

    def __attrs_post_init__(self) -> None:
        if self.high * self.probability <= self.low:
            raise ValueError("the risky arm must pay more on average: high * probability > low")

    @property
    def least_reward(self) -> float:  # type: ignore[override]
        """The worse of the steady payoff, and of none."""
        return min(self.low, 0.0)

    @property
    def instruction(self) -> str:  # type: ignore[override]
        return (
            "There are two slot machines, each named after a profession; the name tells what kind of machine it is. "
            "You pull one of them, once, and want the payoff that is highest on average. Answer with its name."
        )

    def make(self, seed: int, member: int = 0) -> BanditEnv:
        """Make an episode with the names of ``seed`` and the payoff of ``member``."""
        rng = seeded("bandit", self.split, seed)
        steady, risky = rng.choice(PAIRS[self.split])
        first, second = rng.sample((steady, risky), 2)
        pays = seeded("bandit payoff", seed, member).random() < self.probability
        return BanditEnv((first, second), {steady: self.low, risky: self.high if pays else 0.0}, risky)


@attrs.define
class BanditEnv(Env):
    """The environment of one episode of :class:`Bandit`."""

    names: tuple[str, str]
    payoffs: dict[str, float]
    risky: str
    done: bool = False

    @property
    def key(self) -> str:
        """Names of the arms, in their order."""
        return f"{self.names[0]} | {self.names[1]}"

    def initial_observation(self) -> str:
        return f"Machines: {self.names[0]}, {self.names[1]}"

    def step(self, action: str) -> Step:
        """Choose a machine by its name; any other text chooses none. Raises RunError after the end."""
        refuse_after_end(self.done)
        self.done = True
        wanted = action.strip().lower()
        for name, payoff in self.payoffs.items():
            if name.lower() == wanted:
                text = f"{name} pays {payoff:g}."
                return Step(text, payoff, done=True, success=name == self.risky, metrics={ACCEPTED: 1.0})
        return Step("There is no such machine.", 0.0, done=True, metrics={ACCEPTED: 0.0})
