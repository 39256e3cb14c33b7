"""The contract of dialogues: how a task becomes messages, and a response becomes actions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import attrs

from .component import Component


@attrs.frozen
class Setting:
    """What a dialogue is told of the task and the budgets; it does not change within an episode."""

    instruction: str
    """What the task is, as the environment says it."""
    actions: tuple[str, ...] | None
    """The names of the actions; ``None`` for free text."""
    max_turns: int
    max_actions: int
    """Actions of one episode."""
    max_actions_per_turn: int
    """Actions of one answer beyond this many are cut off without penalty."""
    max_tokens: int
    """Sampled tokens of one turn."""
    think: bool
    """Whether the model is asked to think before it answers."""


@attrs.frozen
class Answer:
    """What a response says; ``valid`` is false for a response that costs the format penalty."""

    thought: str = ""
    actions: tuple[str, ...] = ()
    """The valid actions, spelled as the environment spells them."""
    parsed: int = 0
    """How many actions the answer named, valid or not, after the cut to the turn's limit."""

    @property
    def valid(self) -> bool:
        return 0 < self.parsed == len(self.actions)

    @classmethod
    def naming(cls, names: Iterable[str], setting: Setting, thought: str = "") -> Answer:
        """The answer that names these actions, in this order.

        Blanks are dropped, and what lies beyond ``max_actions_per_turn`` is cut off. Names are matched without regard
        to case and white space; those that ``setting.actions`` does not list are dropped and make the turn invalid.
        Free text is an action as it stands, but for white space around it.
        """
        limit = setting.max_actions_per_turn
        if setting.actions is None:
            texts = tuple(text for name in names if (text := name.strip()))[:limit]
            return cls(thought, texts, len(texts))
        keys = [found for name in names if (found := action_key(name))][:limit]
        listed = {action_key(action): action for action in setting.actions}
        return cls(thought, tuple(listed[name] for name in keys if name in listed), len(keys))


def action_key(name: str) -> str:
    """What counts of a name of an action: no case, no white space around it or beyond one space within it."""
    return " ".join(name.casefold().split())


class Dialogue(Component):
    """Kind ``dialogue``: how a task becomes messages, and a response becomes actions.

    A conversation is a system message, then turns: a user message, and the response that is sampled after it. The user
    message of a turn is the :meth:`outcome` of the turn before and what :meth:`ask` shows of this one. In a
    ``single_turn`` window it holds the window's earlier turns as well: of each what it showed, the :meth:`summary` of
    its answer, and its outcome. Texts stand on lines of their own; an empty one leaves no line.

    What it says depends on its arguments alone. Its texts are encoded as the environment's are, so a control token
    spelled in them is text; only in ``opening`` and ``reply`` it is the token. Responses are never encoded again: what
    was sampled stays as it was sampled.
    """

    __slots__ = ()

    tags: tuple[str, ...] = ()
    """Texts that structure a response. A tokenizer may have tokens for them, which no text from elsewhere can forge."""
    thought_end: str = ""
    """The tag that ends a thought in a response; empty where a response holds no thought that can be told apart."""

    def opening(self, think: bool) -> str:
        """What every response is made to begin with: it ends the prompt and is not trained.

        Where the chat template has it there already, it is not written twice.
        """
        return ""

    @abstractmethod
    def system(self, setting: Setting) -> str:
        """The whole system message; empty for none."""

    def reply(self, setting: Setting) -> str:
        """That part of the system message, word for word, whose control tokens are meant (such as an example)."""
        return ""

    @abstractmethod
    def ask(self, number: int, observation: str, actions_left: int, setting: Setting) -> str:
        """What turn ``number`` (from 1) shows: never empty.

        Args:
            observation: what the environment shows, without empty lines around it.
            actions_left: of the episode's ``max_actions``.
        """

    def outcome(self, reward: float, answer: Answer, setting: Setting) -> str:
        """What is said of the turn before: the environment's ``reward`` for it (without a format penalty), a warning
        if its answer was not valid; empty for nothing.
        """
        return ""

    @abstractmethod
    def summary(self, answer: Answer) -> str:
        """An earlier answer, where a ``single_turn`` window shows it in place of the response; empty for nothing."""

    @abstractmethod
    def parse(self, response: str, setting: Setting) -> Answer:
        """What a response says. Any text is a response: what cannot be read is an answer without actions.

        At most ``max_actions_per_turn`` actions, each spelled as in ``setting.actions``: :meth:`Answer.naming` does it.

        Args:
            response: the opening and what was sampled, as text, without the token that ended it.
        """

    @abstractmethod
    def respond(self, thought: str, actions: tuple[str, ...], setting: Setting) -> str:
        """The response that :meth:`parse` reads as these actions (at most ``max_actions_per_turn``).

        It begins with the opening. Solvers whose play is cloned speak by it.
        """
