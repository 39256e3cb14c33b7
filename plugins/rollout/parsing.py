"""Reading an answer: ``<think>...</think><answer>a || b</answer>`` -> the actions it names."""

from __future__ import annotations

import re

import attrs

SEPARATOR = "||"
_THOUGHT_AND_ANSWER = re.compile(r"<think>(.*?)</think>\s*<answer>(.*?)</answer>", re.DOTALL)
_ANSWER = re.compile(r"()<answer>(.*?)</answer>", re.DOTALL)


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


def parse(text: str, actions: tuple[str, ...] | None, max_actions: int, think: bool = True) -> Answer:
    """The first envelope in ``text``: a think block (only with ``think``), white space, an answer block.

    The answer is split at ``||``, blanks are dropped, and what lies beyond ``max_actions`` is cut off without penalty.
    Names are matched without regard to case and white space; those that ``actions`` does not list are dropped and make
    the turn invalid. With ``actions`` None the whole answer is one action.
    """
    found = (_THOUGHT_AND_ANSWER if think else _ANSWER).search(text)
    if found is None:
        return Answer()
    thought, answer = (part.strip() for part in found.groups())
    if actions is None:
        return Answer(thought, (answer,) if answer else (), 1 if answer else 0)
    names = [name for part in answer.split(SEPARATOR) if (name := key(part))][:max_actions]
    listed = {key(action): action for action in actions}
    return Answer(thought, tuple(listed[name] for name in names if name in listed), len(names))


def key(name: str) -> str:
    """What counts of a name of an action: no case, no white space around it or beyond one space within it."""
    return " ".join(name.casefold().split())
