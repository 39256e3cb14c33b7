"""The contract of dialogues: how a task becomes messages, and a response becomes actions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import attrs

from .component import Component
from .tools import Call, Tool


@attrs.frozen
class Setting:
    """What a dialogue knows about the task and the limits of an episode. It stays the same during an episode."""

    instruction: str
    """The description of the task, in the environment's words."""
    actions: tuple[str, ...] | None
    """The names of the actions; ``None`` for free text."""
    max_turns: int
    """The largest number of turns in an episode."""
    max_actions: int
    """The largest number of actions in an episode."""
    max_actions_per_turn: int
    """The largest number of actions in one answer; those beyond it are dropped without penalty."""
    max_tokens: int
    """The largest number of sampled tokens in one turn."""
    think: bool
    """Whether the model is asked to think before it answers."""
    tools: tuple[Tool, ...] = ()
    """The tools of the environment."""


@attrs.frozen
class Answer:
    """What the policy says in a response. Where ``valid`` is false, the turn costs the format penalty."""

    thought: str = ""
    """The text that the policy wrote before its answer."""
    actions: tuple[str, ...] = ()
    """The actions that exist, spelled as the environment spells them."""
    parsed: int = 0
    """The number of actions that the answer names, existing or not, after those beyond the turn's limit are dropped."""
    calls: tuple[Call, ...] = ()
    """The calls of tools, where the answer makes some; they are played in place of ``actions``, which then has one for
    each call without a problem: :attr:`Call.action`, or :attr:`Call.text` where it calls a tool of the environment."""

    @property
    def valid(self) -> bool:
        """Whether the answer names at least one action, and only actions that exist."""
        return 0 < self.parsed == len(self.actions)

    @classmethod
    def naming(cls, names: Iterable[str], setting: Setting, thought: str = "") -> Answer:
        """Return the answer that names these actions, in this order.

        Empty names are dropped, and so are those beyond ``max_actions_per_turn``. Names are matched without regard to
        case and white space; those that ``setting.actions`` does not list are dropped and make the turn invalid. Free
        text is an action as it is, without the white space around it.
        """
        limit = setting.max_actions_per_turn
        if setting.actions is None:
            texts = tuple(filter(None, map(str.strip, names)))[:limit]
            return cls(thought, texts, len(texts))
        keys = list(filter(None, map(action_key, names)))[:limit]
        listed = {action_key(action): action for action in setting.actions}
        return cls(thought, tuple(listed[key] for key in keys if key in listed), len(keys))


def action_key(name: str) -> str:
    """Return the form in which names of actions are compared: without case, and with single spaces between words."""
    return " ".join(name.casefold().split())


class Dialogue(Component):
    """A dialogue writes the messages of a task and reads the actions in a response. Kind ``dialogue``.

    A conversation is a system message followed by turns. Each turn is a user message and the response that is sampled
    after it. The user message has two parts: the :meth:`outcome` of the turn before, and the text of :meth:`ask` for
    this turn. In a ``single_turn`` window it also holds the earlier turns of the window; for each of them the text of
    :meth:`ask`, the :meth:`summary` of its answer, and its :meth:`outcome`. Each text begins a new line; an empty text
    adds none.

    Every method must depend on its arguments alone. The texts are encoded in the same way as those of an environment:
    a control token that is spelled in them stays plain text. Only in ``opening`` and ``reply`` it becomes the token.
    Responses are never encoded again: the tokens that were sampled are the tokens that train.

    A dialogue with ``calls_tools`` may read calls of tools in a response. The next message then has the :meth:`result`
    of each call, in place of ``outcome`` and ``ask``. Where :meth:`tools` gives tools, the chat template describes
    them, and each result is a message of the role ``tool``. Where it gives none, ``system`` must describe them, and the
    results are lines of a user message.
    """

    __slots__ = ()

    tags: tuple[str, ...] = ()
    """Texts that structure a response, such as ``<answer>``. Where the tokenizer has a token for one, no text of the
    environment can produce that token."""
    thought_end: str = ""
    """The tag after which a response no longer is a thought; empty where thoughts are not marked."""
    last_thought_end: bool = False
    """Whether the last ``thought_end`` of a response ends its thought, rather than the first."""

    calls_tools: bool = False
    """Whether responses may call tools. An environment that offers tools needs such a dialogue."""

    def adapted(self, chat_template: str, writes_tools: bool) -> Dialogue:
        """Return the dialogue as it is spoken with a chat template; by default it is the same with all of them.

        It is asked only where ``calls_tools`` is true.

        Args:
            chat_template: the text of the template.
            writes_tools: whether the template can describe tools and write their results.
        """
        return self

    def tools(self, setting: Setting) -> tuple[Tool, ...]:
        """Return the tools that the chat template describes; by default none."""
        return ()

    def result(self, call: Call, observation: str, setting: Setting) -> str:
        """Return the text about a call.

        Args:
            observation: the environment's text after the call, or the call's problem. It must be part of the text.
        """
        return observation

    def opening(self, think: bool) -> str:
        """Return the text that every response begins with. It is the end of the prompt, and does not train.

        Where the chat template already ends with it, it is not written a second time.
        """
        return ""

    @abstractmethod
    def system(self, setting: Setting) -> str:
        """Return the whole system message; an empty text means that there is none."""

    def reply(self, setting: Setting) -> str:
        """Return the part of the system message in which control tokens are tokens, such as an example of a response.

        It must occur in :meth:`system` word for word; an empty text means that there is no such part.
        """
        return ""

    @abstractmethod
    def ask(self, number: int, observation: str, actions_left: int, setting: Setting) -> str:
        """Return the text that turn ``number`` (from 1) shows. It must not be empty.

        Args:
            observation: the environment's text, without empty lines around it.
            actions_left: how many of the episode's ``max_actions`` are left.
        """

    def outcome(self, reward: float, answer: Answer, setting: Setting) -> str:
        """Return the text about the turn before, such as its reward, or a warning where its answer was not valid.

        An empty text, the default, says nothing.

        Args:
            reward: the environment's reward for that turn, without a format penalty.
        """
        return ""

    @abstractmethod
    def summary(self, answer: Answer) -> str:
        """Return the text that stands for an earlier response in a ``single_turn`` window; it may be empty."""

    @abstractmethod
    def parse(self, response: str, setting: Setting) -> Answer:
        """Read the answer in a response. It must accept any text: one that it cannot read is an answer without actions.

        The answer has at most ``max_actions_per_turn`` actions, each spelled as in ``setting.actions``;
        :meth:`Answer.naming` makes such an answer.

        Args:
            response: the opening and the sampled text, without the token that ended it.
        """

    @abstractmethod
    def respond(self, thought: str, actions: tuple[str, ...], setting: Setting) -> str:
        """Return a response that :meth:`parse` reads as these actions (at most ``max_actions_per_turn``).

        It must begin with the opening. Demonstrations, from which a small model is trained, are written with it.
        """
