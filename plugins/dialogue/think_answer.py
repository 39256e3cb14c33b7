"""The dialogue ``think_answer`` reads ``<think>...</think><answer>a || b</answer>``.

Its texts are short, because every word costs a small model attention and time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import attrs

from ...core.components import Answer, Setting
from .wording import Worded, wording

_BORDER = re.compile(r"</think>\s*+<answer>")


@attrs.frozen(kw_only=True)
class ThinkAnswer(Worded):
    """A response is a thought, then an answer, each between tags: the format of this project's first experiments.

    A response is ``<think>thoughts</think><answer>action || action</answer>`` and is made to begin with ``<think>``.
    With ``rollout.think: false`` there is no thought, and it begins with ``<answer>``. The first thought that an answer
    follows, after nothing but white space, is read. Free text is one action. The user message of a turn has its number,
    the state and the number of actions left; before that, the reward of the turn before, and a warning if its answer
    was not valid.
    """

    turn: str = wording(
        "Turn {number}:\nState:\n{observation}\nActions left: {actions_left}",
        *("number", "observation", "actions_left"),
        needs="observation",
    )
    """Words of a turn: its ``{number}``, the ``{observation}``, and the ``{actions_left}``."""
    rewarded: str = wording("Reward:\n{reward}", "reward")
    """Words about the ``{reward}`` of the turn before; an empty text says nothing about it."""
    answered: str = wording("Answer: {actions}", "actions")
    """Words for an earlier answer in a ``single_turn`` window: its ``{actions}``."""
    example: str = ""
    """Worked example at the end of the system message: a whole response, or a state and the response to it, such as
    ``The box is left of you. <think>I push it.</think><answer>Left</answer>``. Its tags are tokens like those of a
    response."""

    tags = ("<think>", "</think>", "<answer>", "</answer>")
    thought_end = "</think>"

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield the reason why the example cannot be one."""
        if self.example and _parts(self.example, experiment.rollout.think) is None:
            form = _envelope("...", "...", experiment.rollout.think)
            yield f"has an example in which no answer is read, since it has no {form}"

    def opening(self, think: bool) -> str:
        return "<think>" if think else "<answer>"

    def reply(self, setting: Setting) -> str:
        """Return the end of the system message, whose tags may be tokens, since no environment wrote it."""
        answer = "your answer"
        if setting.actions is not None:
            answer = self._joined(("action", "action")) if setting.max_actions_per_turn > 1 else "action"
        form = f"Reply: {_envelope('your thoughts', answer, setting.think)}"
        return f"{form}\nExample: {self.example}" if self.example else form

    def parse(self, response: str, setting: Setting) -> Answer:
        """Read the first thought (only with ``think``) that an answer follows after nothing but white space."""
        parts = _parts(response, setting.think)
        if parts is None:
            return Answer()
        thought, answer = parts
        return self._named(answer.strip(), setting, thought.strip())

    def respond(self, thought: str, actions: tuple[str, ...], setting: Setting) -> str:
        return _envelope(thought, self._joined(actions), setting.think)


def _envelope(thought: str, answer: str, think: bool) -> str:
    opened = f"<think>{thought}</think>" if think else ""
    return f"{opened}<answer>{answer}</answer>"


def _parts(text: str, think: bool) -> tuple[str, str] | None:
    """Return the thought and the answer, or ``None`` where a tag is missing. Every character is looked at once."""
    opening = "<think>" if think else "<answer>"
    opened = text.find(opening)
    begins = opened + len(opening)
    border = _BORDER.search(text, begins) if think else None
    if opened < 0 or (think and border is None):
        return None
    thought, start = (text[begins : border.start()], border.end()) if border else ("", begins)
    end = text.find("</answer>", start)
    return None if end < 0 else (thought, text[start:end])
