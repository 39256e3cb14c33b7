"""The dialogue ``plain`` takes the whole response as the action."""

from __future__ import annotations

import attrs

from ...core.components import Answer, Setting
from .wording import Worded, after_thought, wording

_LISTED = "Reply with an action and nothing else: {actions}. At most {per_turn} a turn{separated}, {total} in all."


@attrs.frozen(kw_only=True)
class Plain(Worded):
    """The observation goes in, and the whole response is the action: no tags, and no text that a response begins with.

    The system message has the task and, where there are some, the names of the actions. The user message of a turn is
    the observation. The dialogue asks for no thoughts. ``rollout.think`` still switches the thoughts of models whose
    chat template has them: a thought between ``<think>`` tags at the beginning is then no part of the action.
    """

    persona: str = ""
    """First line of the system message; an empty text leaves it out."""
    listed: str = wording(_LISTED, "actions", "per_turn", "separated", "total", "words", needs="actions")
    """Words about actions that have names: ``{actions}``, the largest number in a turn and in all (``{per_turn}``,
    ``{total}``), how they are ``{separated}``, and the largest number of ``{words}``."""
    free: str = wording("", "total", "words")
    """Words about answers that are free text; an empty text leaves them out."""

    def parse(self, response: str, setting: Setting) -> Answer:
        thought, answer = after_thought(response) if setting.think else ("", response)
        return self._named(answer, setting, thought)

    def respond(self, thought: str, actions: tuple[str, ...], setting: Setting) -> str:
        """Return the actions alone: there is no place for a thought."""
        return self._joined(actions)
