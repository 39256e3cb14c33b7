"""The dialogue ``think_answer`` reads ``<think>...</think><answer>a || b</answer>``.

Its texts are short, because every word costs a small model attention and time.
"""

from __future__ import annotations

import re

import attrs

from ...core.components import Answer, Dialogue, Setting

SEPARATOR = "||"
"""Text between two actions of an answer."""
_THOUGHT_AND_ANSWER = re.compile(r"<think>(.*?)</think>\s*<answer>(.*?)</answer>", re.DOTALL)
_ANSWER = re.compile(r"()<answer>(.*?)</answer>", re.DOTALL)


@attrs.frozen
class ThinkAnswer(Dialogue):
    """A response is a thought, then an answer, each between tags: the format of this project's first experiments.

    A response is ``<think>thoughts</think><answer>action || action</answer>`` and is made to begin with ``<think>``.
    With ``rollout.think: false`` there is no thought, and it begins with ``<answer>``. The first thought that an answer
    follows, after nothing but white space, is read. Free text is one action. The user message of a turn has its number,
    the state and the number of actions left; before that, the reward of the turn before, and a warning if its answer
    was not valid.
    """

    tags = ("<think>", "</think>", "<answer>", "</answer>")
    thought_end = "</think>"

    def opening(self, think: bool) -> str:
        return "<think>" if think else "<answer>"

    def system(self, setting: Setting) -> str:
        """Return task, names of actions, limits and reply format: all that stays the same from turn to turn."""
        words = max(1, setting.max_tokens * 3 // 4)  # a word is about 4/3 of a token
        lines = ["You are a helpful assistant.", setting.instruction.strip()]
        if setting.actions is None:
            lines.append(f"Give one answer a turn, {setting.max_actions} in all. At most {words} words a turn.")
        else:
            several = setting.max_actions_per_turn > 1
            separated = f" separated by {SEPARATOR}" if several else ""
            lines.append(f"Actions: {', '.join(setting.actions)}")
            lines.append(
                f"Give at most {setting.max_actions_per_turn} a turn{separated}, {setting.max_actions} in all. "
                f"At most {words} words a turn."
            )
        lines.append(self.reply(setting))
        return "\n".join(lines)

    def reply(self, setting: Setting) -> str:
        """Return the last line of the system message, whose tags may be tokens, since no environment wrote it."""
        example = "your answer"
        if setting.actions is not None:
            example = f"action {SEPARATOR} action" if setting.max_actions_per_turn > 1 else "action"
        return f"Reply: {_envelope('your thoughts', example, setting.think)}"

    def ask(self, number: int, observation: str, actions_left: int, setting: Setting) -> str:
        return f"Turn {number}:\nState:\n{observation}\nActions left: {actions_left}"

    def outcome(self, reward: float, answer: Answer, setting: Setting) -> str:
        """Return the reward, and a warning for an invalid answer. The format penalty itself is never shown."""
        warning = "" if answer.valid else "\nInvalid answer: keep to the actions and the reply format."
        return f"Reward:\n{reward + 0.0:g}{warning}"  # + 0.0 turns -0.0 into 0.0

    def summary(self, answer: Answer) -> str:
        return f"Answer: {f' {SEPARATOR} '.join(answer.actions) or 'none'}"

    def parse(self, response: str, setting: Setting) -> Answer:
        """Read the first thought (only with ``think``) that an answer follows after nothing but white space."""
        match = (_THOUGHT_AND_ANSWER if setting.think else _ANSWER).search(response)
        if match is None:
            return Answer()
        thought, answer = (part.strip() for part in match.groups())
        names = [answer] if setting.actions is None else answer.split(SEPARATOR)
        return Answer.naming(names, setting, thought)

    def respond(self, thought: str, actions: tuple[str, ...], setting: Setting) -> str:
        return _envelope(thought, f" {SEPARATOR} ".join(actions), setting.think)


def _envelope(thought: str, answer: str, think: bool) -> str:
    opened = f"<think>{thought}</think>" if think else ""
    return f"{opened}<answer>{answer}</answer>"
