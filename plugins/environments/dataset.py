"""The environment ``dataset`` asks one question in each task, and a verifier decides whether the answer is right."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs.validators import ge, optional

from ...core.components import Env, Environment, Step, Verifier
from ...core.compose.fields import component, components
from .common import feedback, refuse_after_end
from .dataset_rows import Row, Rows, forget_changed, load, refuse_unverifiable
from .metrics import ACCEPTED


@attrs.frozen
class Dataset(Environment):
    """Ask questions with known answers, from a local file or folder, the hub, or generated word problems.

    The answer is free text, and one answer ends the episode. The reward is 1 if it is right, which is success;
    otherwise it is 0, or the verifier's score between 0 and 1. The metric ``share_of_played_actions_accepted`` is
    the share of answers that the verifier can read: with ``math`` those that are mathematics, with ``exact`` any
    text, with ``choice`` those that name one option.

    Where a right answer is written as in GSM8K, reasoning and ``#### 42``, only the part after ``####`` counts. Seed s
    names row s modulo the number of rows, so that training reads the rows in their order, again and again.

    ``path=arithmetic`` generates 400 word problems for the split ``train`` and 100 for ``test``, which share no
    calculation.
    """

    path: str
    """Place of the data: ``arithmetic``; a .jsonl, .json or .parquet file, which is the split ``train``; a folder with
    a file for each split (``train.jsonl``, ``test.jsonl``); or a name on the hub such as ``openai/gsm8k``."""
    subset: str | None = None
    """Configuration of a data set of the hub, such as ``main``."""
    split: str = "train"
    """Split, by the name that the data set gives it."""
    question: str = "question"
    """Column of the questions: text, or chat messages. ``a.b`` is the field b of the records in column a. System
    messages become part of the system message, and earlier turns become turns of the conversation."""
    answer: str = "answer"
    """Column of the right answers: a value, or a list of values, each of which is right."""
    verifier: Any = component("verifier", "math")  # noqa: RUF009 - makes an attrs field
    """Verifier that decides which answers are right. ``math`` compares them as mathematics; ``exact`` as text, whatever
    case and white space; ``choice`` as options of a multiple choice; ``contains`` looks for the right one in the text;
    ``json_schema`` checks JSON; ``judge`` asks a language model."""
    longest: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Largest length of a question in characters, with what a file says before it; rows with longer ones are left out.
    ``None`` keeps all."""
    system: str | None = None
    """Column of system texts, which may be null; ``None`` for none. They stand before the verifier's instruction."""
    beside: Any = components("verifier")  # noqa: RUF009 - makes an attrs field
    """More verifiers, each of which gives a reward of its own. The rewards then have the verifiers' names, and
    ``reward.weights`` weighs them; ``verifier`` alone decides about success."""

    actions = None
    least_reward = 0.0

    @property
    def reward_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the verifiers, if there are several."""
        return tuple(named.name for named in (self.verifier, *self.beside)) if self.beside else ()

    def __attrs_post_init__(self) -> None:
        forget_changed(self.path)

    @property
    def instruction(self) -> str:  # type: ignore[override]
        instruction: str = self.verifier.component.instruction
        return instruction

    @property
    def tasks(self) -> int:  # type: ignore[override]
        """Number of rows."""
        return len(self._loaded.rows)

    @property
    def digest(self) -> str:
        """Hash of the rows' content."""
        return self._loaded.digest

    @property
    def concurrency(self) -> int:  # type: ignore[override]
        """That of the verifiers, which alone may take long."""
        return max(int(named.component.concurrency) for named in (self.verifier, *self.beside))

    @property
    def demonstrated(self) -> Dataset:  # type: ignore[override]
        """The data set itself: its right answers, with the reasoning before them if it has some."""
        return self

    def row(self, index: int) -> Row:
        """Return row ``index`` modulo the number of rows. Raises RequestError if the data set cannot be loaded."""
        return self._loaded.rows[index % self.tasks]

    def make(self, seed: int, member: int = 0) -> DatasetEnv:
        """Make an episode with the question of row ``seed``, the same for every member."""
        beside = {named.name: named.component for named in self.beside}
        return DatasetEnv(self.row(seed), self.verifier.component, self.verifier.name, beside, rows=self._loaded.rows)

    @property
    def _loaded(self) -> Rows:
        rows = load(self.path, self.subset, self.split, self.question, self.answer, self.longest, self.system)
        for named in (self.verifier, *self.beside):
            refuse_unverifiable(rows, named)
        return rows


@attrs.define
class DatasetEnv(Env):
    """An episode of :class:`Dataset`."""

    row: Row
    """The question with its right answers."""
    verifier: Verifier
    """What decides whether an answer is right."""
    name: str = "verifier"
    """The name of the verifier's reward, if it is not the only one."""
    beside: Mapping[str, Verifier] = attrs.field(factory=dict)
    """More verifiers, by the names of their rewards."""
    done: bool = False
    """Whether the question has been answered."""
    rows: Sequence[Row] = attrs.field(default=(), repr=False)
    """All rows, in whose answers a demonstrator finds mistakes."""

    @property
    def key(self) -> str:
        """Question of the row."""
        return self.row.question

    @property
    def place(self) -> str:  # type: ignore[override]
        """Place of the row in its file, for messages."""
        return self.row.place

    @property
    def system_text(self) -> str:  # type: ignore[override]
        """System text of the row."""
        return self.row.system

    @property
    def earlier_turns(self) -> tuple[tuple[str, str], ...]:  # type: ignore[override]
        """Turns of the row before its question."""
        return self.row.earlier

    def initial_observation(self) -> str:
        return self.row.question

    def step(self, action: str) -> Step:
        """Check an answer. Raises RunError after the end, and EpisodeLostError where the verifier has no verdict."""
        refuse_after_end(self.done)
        self.done = True
        score = self.verifier.grade(self.row.question, action, self.row.answers)
        reward, rewards = float(score or 0.0), dict[str, float]()
        if self.beside:
            reward, rewards = 0.0, {self.name: reward}
        for name, verifier in self.beside.items():
            rewards[name] = float(verifier.grade(self.row.question, action, self.row.answers) or 0.0)
        return Step(
            feedback(score),
            reward,
            done=True,
            success=score == 1,
            metrics={ACCEPTED: float(score is not None)},
            rewards=rewards,
        )

    def demonstrate(self, most: int, noise: float, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        """Return the row's reasoning, and its first right answer; a mistake gives those of another row."""
        row = rng.choice(self.rows) if self.rows and rng.random() < noise else self.row
        return row.reasoning, (row.answer,)
