"""The built-in dialogues share the parts of their wording, and each part is a parameter."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import attrs

from ...core.components import Answer, Dialogue, Setting

LISTED = "Actions: {actions}\nGive at most {per_turn} a turn{separated}, {total} in all. At most {words} words a turn."
"""Words about actions that have names."""
FREE = "Give one answer a turn, {total} in all. At most {words} words a turn."
"""Words about answers that are free text."""
WARNING = "Invalid answer: keep to the actions and the reply format."
"""Words after an answer that is not valid."""


def wording(default: str, *places: str, needs: str = "") -> Any:
    """Return a field for a text with places such as ``{observation}``, of which ``needs`` must occur.

    ``{{`` and ``}}`` stand for braces. The field refuses other places with a ValueError.
    """

    def check(_: object, field: attrs.Attribute[str], text: str) -> None:
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"{field.name}: {error}; write {{{{ and }}}} for braces") from error
        names = [name for _, name, _, _ in parts if name is not None]
        bare = all(not spec and not conversion for _, _, spec, conversion in parts)
        if not bare or (odd := [name for name in names if name not in places]):
            what = f"the place {{{odd[0]}}}" if bare else "a place with more than a name"
            known = ", ".join(f"{{{place}}}" for place in places) or "none"
            raise ValueError(f"{field.name} has {what}; the places are {known}, and {{{{ is a brace")
        if needs and needs not in names:
            raise ValueError(f"{field.name} must have the place {{{needs}}}")

    return attrs.field(default=default, validator=check)


def separator() -> Any:
    """Return a field for the text between two actions of an answer, which must not be blank."""

    def check(_: object, field: attrs.Attribute[str], text: str) -> None:
        if not text.strip():
            raise ValueError(f"{field.name} must not be blank")

    return attrs.field(default="||", validator=check)


@attrs.frozen(kw_only=True)
class Worded(Dialogue):
    """A dialogue whose words are parameters; a class below it adds the form of a response."""

    persona: str = "You are a helpful assistant."
    """First line of the system message; an empty text leaves it out."""
    separator: str = separator()
    """Text between two actions of an answer."""
    listed: str = wording(LISTED, "actions", "per_turn", "separated", "total", "words", needs="actions")
    """Words about actions that have names: ``{actions}``, the largest number in a turn and in all (``{per_turn}``,
    ``{total}``), how they are ``{separated}``, and the largest number of ``{words}``."""
    free: str = wording(FREE, "total", "words")
    """Words about answers that are free text; an empty text leaves them out."""
    turn: str = wording("{observation}", "number", "observation", "actions_left", needs="observation")
    """Words of a turn: its ``{number}``, the ``{observation}``, and the ``{actions_left}``."""
    rewarded: str = wording("", "reward")
    """Words about the ``{reward}`` of the turn before; an empty text says nothing about it."""
    warning: str = WARNING
    """Words after an answer that is not valid; an empty text says nothing about it."""
    answered: str = wording("{actions}", "actions")
    """Words for an earlier answer in a ``single_turn`` window: its ``{actions}``."""

    def system(self, setting: Setting) -> str:
        """Return task, actions and limits, and the form of a response: all that stays the same from turn to turn."""
        own = [text for text in (*self._task(setting), self.reply(setting)) if text]
        return "\n".join([*([self.persona] if self.persona else []), setting.instruction.strip(), *own])

    def ask(self, number: int, observation: str, actions_left: int, setting: Setting) -> str:
        return self.turn.format(number=number, observation=observation, actions_left=actions_left)

    def outcome(self, reward: float, answer: Answer, setting: Setting) -> str:
        """Return what is said of the reward, and the warning for an invalid answer. A format penalty is never shown."""
        said = self.rewarded.format(reward=f"{reward + 0.0:g}")  # + 0.0 turns -0.0 into 0.0
        return "\n".join(filter(None, [said, "" if answer.valid else self.warning]))

    def summary(self, answer: Answer) -> str:
        return self.answered.format(actions=self._joined(answer.actions) or "none")

    def _task(self, setting: Setting) -> Iterator[str]:
        several = setting.max_actions_per_turn > 1
        words = self.listed if setting.actions is not None else self.free
        if words:
            yield words.format(
                actions=", ".join(setting.actions or ()),
                per_turn=setting.max_actions_per_turn,
                separated=f" separated by {self.separator}" if several else "",
                total=setting.max_actions,
                words=max(1, setting.max_tokens * 3 // 4),  # a word is about 4/3 of a token
            )

    def _joined(self, actions: tuple[str, ...]) -> str:
        return f" {self.separator} ".join(actions)

    def _named(self, answer: str, setting: Setting, thought: str = "") -> Answer:
        """Return the answer that a text names: several actions with names, or one that is free text."""
        return Answer.naming([answer] if setting.actions is None else answer.split(self.separator), setting, thought)


def after_thought(response: str) -> tuple[str, str]:
    """Return the thought that a reasoning model begins with, and what follows it.

    The thought stands between ``<think>`` and the last ``</think>``; in one that never ends there is nothing after it.
    """
    if not response.lstrip().startswith("<think>"):
        return "", response
    thought, closed, rest = response.lstrip().removeprefix("<think>").rpartition("</think>")
    return (thought.strip(), rest) if closed else (rest.strip(), "")
