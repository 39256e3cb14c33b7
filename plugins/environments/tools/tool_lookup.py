"""A small task that needs two tools in turn: numbers are looked up in notes, then multiplied."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import get_args

import attrs
from attrs.validators import and_, ge, in_, le

from ....core.components import Env, Environment, Step
from ..common import Split, draw_task, refuse_after_end, seeded
from ..metrics import ACCEPTED
from . import calculator as calculating
from .search import Index, listed, require_package, words
from .search_corpus import Passage

_SYLLABLES = (
    "am",
    "bel",
    "cor",
    "dun",
    "el",
    "far",
    "gil",
    "har",
    "is",
    "jor",
    "kel",
    "lin",
    "mar",
    "nor",
    "or",
    "pen",
)
_ENDINGS = ("bury", "dale", "ford", "ham", "mouth", "stead", "ton", "wick")
_GOODS = ("apples", "barley", "candles", "dates", "eggs", "flour", "grapes", "honey", "ink", "linen", "oats", "pears")


@attrs.frozen
class Notes:
    """Notes say what towns sold, and what goods cost."""

    sold: dict[tuple[str, str], int]
    """Town and good -> number of crates."""
    price: dict[str, int]
    """Good -> shillings for a crate."""
    index: Index
    """Index of all notes."""


@lru_cache(maxsize=8)
def notes(towns: int, goods: int, seed: int) -> Notes:
    """Generate notes, the same for the same arguments. Raises MissingExtraError if bm25s is not installed."""
    rng = seeded("tool_lookup", towns, goods, seed)
    names: dict[str, None] = {}
    while len(names) < towns:
        first, second = rng.choice(_SYLLABLES), rng.choice(_SYLLABLES)
        names[f"{first}{second}{rng.choice(_ENDINGS)}".capitalize()] = None
    sold = {(town, good): rng.randint(100, 999) for town in names for good in _GOODS[:goods]}
    price = {good: rng.randint(12, 99) for good in _GOODS[:goods]}
    lines = [f"{town} sold {count} crates of {good} last year." for (town, good), count in sold.items()]
    lines += [f"A crate of {good} costs {shillings} shillings." for good, shillings in price.items()]
    rng.shuffle(lines)
    return Notes(sold, price, Index([Passage("", line) for line in lines]))


@attrs.define
class ToolLookupEnv(Env):
    """An episode of :class:`ToolLookup`."""

    town: str
    """Town that is asked about."""
    good: str
    """Good that is asked about."""
    notes: Notes = attrs.field(repr=False)
    """Notes that can be searched."""
    k: int = 3
    """Largest number of notes that a search finds."""
    done: bool = False
    """Whether the question has been answered."""

    @property
    def answer(self) -> int:
        """Shillings that the town earned."""
        return self.notes.sold[self.town, self.good] * self.notes.price[self.good]

    def initial_observation(self) -> str:
        return f"How many shillings did {self.town} earn with {self.good} last year?"

    def search(self, query: str) -> str:
        """Search the notes about towns and goods.

        Args:
            query: The words to look for.
        """
        refuse_after_end(self.done)
        if not words(query):
            raise ValueError("the query has no words")
        return listed(self.notes.index.find(query, self.k))

    def calculator(self, expression: str) -> str:
        """Calculate the value of an arithmetic expression.

        Args:
            expression: Numbers with + - * / and parentheses, such as (12 + 7) * 3.
        """
        refuse_after_end(self.done)
        return calculating.calculator(expression)

    def step(self, action: str) -> Step:
        """Check an answer. Raises RunError after the end."""
        refuse_after_end(self.done)
        self.done = True
        given = action.strip().removesuffix(".").replace(",", "")
        right = given == str(self.answer)
        metrics = {ACCEPTED: float(given.removeprefix("-").isdecimal())}
        return Step("Correct." if right else "Wrong.", float(right), done=True, success=right, metrics=metrics)


@attrs.frozen
class ToolLookup(Environment):
    """Find out what a town earned: a task with two tools, ``search`` and ``calculator``.

    One note says how many crates the town sold, another one what a crate costs; the answer is the product. Notes are
    generated and searched by BM25 (:class:`.search.Index`). The answer is a number without a call, and ends the
    episode. The reward is 1 if it is right, otherwise 0. The metric ``share_of_played_actions_accepted`` is the share
    of answers that are numbers; calls are not among them. It needs the dialogue ``tool_calls``.
    """

    towns: int = attrs.field(default=40, validator=and_(ge(2), le(1000)))
    """Number of towns."""
    goods: int = attrs.field(default=6, validator=and_(ge(1), le(len(_GOODS))))
    """Number of goods that each town sold."""
    k: int = attrs.field(default=3, validator=and_(ge(1), le(100)))
    """Largest number of notes that a search finds."""
    notes_seed: int = attrs.field(default=0, validator=ge(0))
    """Seed of the notes, which are the same for all tasks."""
    split: Split = attrs.field(default="all", validator=in_(get_args(Split)))
    """Set of questions: ``validation`` is one in five by content, ``train`` the others, ``all`` both."""

    instruction = (
        "Answer the question. Look up how many crates were sold and what a crate costs, then use the calculator. "
        "At last reply with the number alone."
    )
    actions = None
    least_reward = 0.0
    tools = (ToolLookupEnv.search, ToolLookupEnv.calculator)
    concurrency = 1

    def __attrs_post_init__(self) -> None:
        require_package()

    def make(self, seed: int, member: int = 0) -> ToolLookupEnv:
        """Make an episode with the question of ``seed``, the same for every member."""
        made = notes(self.towns, self.goods, self.notes_seed)
        rng: random.Random = seeded("tool_lookup", "question", seed)
        pairs = list(made.sold)
        what = f"environment: tool_lookup, towns {self.towns}, goods {self.goods}"
        town, good = draw_task(lambda: rng.choice(pairs), " ".join, self.split, what, "raise towns or goods")
        return ToolLookupEnv(town, good, made, self.k)
