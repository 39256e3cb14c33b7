r"""The dialogue ``boxed`` reads the answer in the last ``\boxed{...}``, the custom of mathematics."""

from __future__ import annotations

import re

import attrs

from ...core.components import Answer, Setting
from .wording import LISTED, Worded, after_thought, wording

_BOX = re.compile(r"\\boxed\s*\{")
_FONT = re.compile(r"\\(?:text|textbf|textit|texttt|mathrm|mathbf)\s*\{([^{}]*)\}")
_SIGN = re.compile(r"\\.|[{}]", re.DOTALL)


@attrs.frozen(kw_only=True)
class Boxed(Worded):
    r"""A response is reasoning, then the answer in ``\boxed{}``: the format of mathematics.

    The last box counts, with braces inside of it (``\boxed{\frac{1}{2}}``); where it is not closed there is no answer.
    The thought is what stands before it. In environments whose actions have names, the box holds one or several, also
    as ``\boxed{\text{Up}}``. The dialogue always asks for reasoning; ``rollout.think`` only switches the thoughts of
    models whose chat template has them. A box inside such a thought does not count.
    """

    listed: str = wording(LISTED, "actions", "per_turn", "separated", "total", "words", needs="actions")
    """Words about actions that have names: ``{actions}``, the largest number in a turn and in all (``{per_turn}``,
    ``{total}``), how they are ``{separated}``, and the largest number of ``{words}``."""
    free: str = wording("", "total", "words")
    """Words about answers that are free text; an empty text leaves them out."""
    request: str = r"Please reason step by step, and put your final answer within \boxed{}."
    """Last line of the system message."""
    warning: str = r"Invalid answer: put it within \boxed{}."
    """Words after an answer that is not valid; an empty text says nothing about it."""

    tags = (r"\boxed",)
    thought_end = r"\boxed"
    last_thought_end = True

    def reply(self, setting: Setting) -> str:
        return self.request

    def parse(self, response: str, setting: Setting) -> Answer:
        rest = after_thought(response)[1] if setting.think else response
        boxes = list(_BOX.finditer(rest))
        answer = _closed(rest, boxes[-1].end()) if boxes else None
        if answer is None:
            return Answer()
        before = response[: len(response) - len(rest) + boxes[-1].start()]
        if setting.actions is not None:
            answer = _FONT.sub(r"\1", answer)
        return self._named(answer, setting, before.strip())

    def respond(self, thought: str, actions: tuple[str, ...], setting: Setting) -> str:
        return f"{thought}\n\\boxed{{{self._joined(actions)}}}"


def _closed(text: str, start: int) -> str | None:
    """Return the text from ``start`` up to the brace that closes the box; ``None`` if none does."""
    depth = 1
    for sign in _SIGN.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(sign[0], 0)
        if not depth:
            return text[start : sign.start()]
    return None
