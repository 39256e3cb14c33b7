"""A wrapper checks what dialogues write and read, since an answer that was read wrongly would train unnoticed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import attrs

from ...core.components import Answer, Call, Dialogue, Environment, Setting, Tool
from ...core.compose.blame import confined, wrong
from ...core.compose.experiment import Rollout
from ...core.compose.named import Named
from ...core.errors import RequestError, RunError
from .borders import CheckedEnvironment, name_of
from .tools import tools_of

_ENVIRONMENTS = 64
"""The number of settings for which it is remembered whether a dialogue can name the actions."""


def setting_of(environment: Environment, rollout: Rollout) -> Setting:
    """Return what a dialogue knows about an environment and the limits of an episode."""
    return Setting(
        instruction=environment.instruction,
        actions=environment.actions,
        max_turns=rollout.max_turns,
        max_actions=rollout.max_actions,
        max_actions_per_turn=rollout.max_actions_per_turn,
        max_tokens=rollout.max_tokens,
        think=rollout.think,
        tools=tools_of(environment),
    )


def require_nameable(environment: Environment, dialogue: Dialogue, setting: Setting) -> None:
    """Check that answers in this dialogue can name every action of the environment.

    Raises:
        RequestError: the environment offers tools, which the dialogue does not call.
        RunError: one cannot be named; the message names the environment, or the dialogue if it can name none of them.
    """
    if setting.tools and not dialogue.calls_tools:
        what = (
            f"the environment {name_of(environment)} offers tools, which the dialogue {name_of(dialogue)} does not call"
        )
        raise RequestError(what, "dialogue", "set dialogue: tool_calls")
    unnameable = _unnameable(dialogue, setting)
    if not unnameable:
        return
    if isinstance(dialogue, CheckedDialogue) and len(unnameable) == len(setting.actions or ()):
        text = dialogue.respond("", unnameable[:1], setting)
        what = f"does not read the action {unnameable[0]!r} in {text!r}, which is how respond says it"
        raise wrong(dialogue.named, "parse", what)
    what = f"holds {unnameable[0]!r}, which no answer in the dialogue {name_of(dialogue)} can name"
    if isinstance(environment, CheckedEnvironment):
        raise wrong(environment.named, "actions", what)
    raise RunError(f"the environment {name_of(environment)}: actions {what}", "", "choose another dialogue")


@lru_cache(_ENVIRONMENTS)
def _unnameable(dialogue: Dialogue, setting: Setting) -> tuple[str, ...]:
    """Return the actions that the dialogue does not read in a response that names them."""
    responses = {action: dialogue.respond("", (action,), setting) for action in setting.actions or ()}
    return tuple(action for action, text in responses.items() if dialogue.parse(text, setting).actions != (action,))


class CheckedDialogue(Dialogue):
    """A dialogue that is checked: its texts are texts, its answers hold existing actions and not too many.

    Raises:
        RunError: the dialogue raised an error or broke its contract; the message names it.
    """

    def __init__(self, named: Named) -> None:
        self.named, self.component = named, named.component
        with confined(named, "tags"):
            tags, thought_end = self.component.tags, self.component.thought_end
        if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
            raise wrong(named, "tags", f"must be a tuple of texts, not {tags!r}")
        self.tags, self.thought_end = tuple(tags), self._text("thought_end", thought_end)
        self.last_thought_end = self.component.last_thought_end
        self.calls_tools = self.component.calls_tools

    def adapted(self, chat_template: str, writes_tools: bool) -> CheckedDialogue:
        with confined(self.named, "adapted"):
            adapted = self.component.adapted(chat_template, writes_tools)
        if not isinstance(adapted, Dialogue):
            raise wrong(self.named, "adapted", f"gave {type(adapted).__name__}, not a Dialogue")
        return CheckedDialogue(attrs.evolve(self.named, component=adapted))

    def tools(self, setting: Setting) -> tuple[Tool, ...]:
        with confined(self.named, "tools"):
            tools = self.component.tools(setting)
        if not isinstance(tools, tuple) or not all(isinstance(tool, Tool) for tool in tools):
            raise wrong(self.named, "tools", f"gave {tools!r}, which is not a tuple of Tools")
        return tools

    def result(self, call: Call, observation: str, setting: Setting) -> str:
        with confined(self.named, "result"):
            text = self._text("result", self.component.result(call, observation, setting))
        if observation not in text:
            raise wrong(self.named, "result", "leaves the observation out, or changes it")
        return text

    def opening(self, think: bool) -> str:
        with confined(self.named, "opening"):
            return self._text("opening", self.component.opening(think))

    def system(self, setting: Setting) -> str:
        with confined(self.named, "system"):
            return self._text("system", self.component.system(setting))

    def reply(self, setting: Setting) -> str:
        """Return the reply after a check that it is part of the system message; elsewhere its tokens would be lost."""
        with confined(self.named, "reply"):
            reply = self._text("reply", self.component.reply(setting))
        if reply not in self.system(setting):
            raise wrong(self.named, "reply", f"gave {reply!r}, which is no part of the system message")
        return reply

    def ask(self, number: int, observation: str, actions_left: int, setting: Setting) -> str:
        with confined(self.named, "ask"):
            text = self._text("ask", self.component.ask(number, observation, actions_left, setting))
        if not text:
            raise wrong(self.named, "ask", f"gave no text for turn {number}: there is nothing to answer")
        return text

    def outcome(self, reward: float, answer: Answer, setting: Setting) -> str:
        with confined(self.named, "outcome"):
            return self._text("outcome", self.component.outcome(reward, answer, setting))

    def summary(self, answer: Answer) -> str:
        with confined(self.named, "summary"):
            return self._text("summary", self.component.summary(answer))

    def parse(self, response: str, setting: Setting) -> Answer:
        with confined(self.named, f"parse({_shortened(response)!r})"):
            answer = self.component.parse(response, setting)
        self._check(answer, setting)
        return answer

    def respond(self, thought: str, actions: tuple[str, ...], setting: Setting) -> str:
        with confined(self.named, "respond"):
            response = self._text("respond", self.component.respond(thought, actions, setting))
        opening = self.opening(setting.think)
        if not response.startswith(opening):
            raise wrong(self.named, "respond", f"gave {response!r}, which does not begin with the opening {opening!r}")
        return response

    def _check(self, answer: Any, setting: Setting) -> None:
        if not isinstance(answer, Answer):
            raise wrong(self.named, "parse", f"gave {type(answer).__name__}, not an Answer")
        self._text("parse", answer.thought)
        actions = answer.actions
        parsed = answer.parsed
        limit = setting.max_actions_per_turn
        if not isinstance(actions, tuple) or not all(isinstance(action, str) and action for action in actions):
            raise wrong(self.named, "parse", f"gave actions = {actions!r}, which is not a tuple of texts")
        if type(parsed) is not int or not len(actions) <= parsed <= limit:
            what = f"gave {len(actions)} actions and parsed = {parsed!r}, where actions <= parsed <= {limit} (a turn's)"
            raise wrong(self.named, "parse", what)
        if not isinstance(answer.calls, tuple) or not all(isinstance(call, Call) for call in answer.calls):
            raise wrong(self.named, "parse", f"gave calls = {answer.calls!r}, which is not a tuple of Calls")
        played = [call for call in answer.calls if not call.problem]
        if answer.calls and actions != tuple(call.action or call.text for call in played):
            raise wrong(self.named, "parse", f"gave actions = {actions!r}, which are not those of its calls")
        tools = {tool.name for tool in setting.tools}
        if odd := [call.name for call in played if not call.action and call.name not in tools]:
            raise wrong(self.named, "parse", f"gave a call of {odd[0]!r}, which is no tool of the environment")
        known = {*(setting.actions or ()), *(call.text for call in played)}
        if setting.actions is not None and (unknown := [name for name in actions if name not in known]):
            listed = ", ".join(setting.actions)
            raise wrong(self.named, "parse", f"gave the action {unknown[0]!r}; the environment has {listed}")

    def _text(self, method: str, value: Any) -> str:
        if not isinstance(value, str):
            raise wrong(self.named, method, f"gave {type(value).__name__} {value!r}, not a text")
        return value


def _shortened(text: str, characters: int = 80) -> str:
    return text if len(text) <= characters else f"{text[:characters]}..."
