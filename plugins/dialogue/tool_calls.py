"""The dialogue ``tool_calls`` lets the model call tools, in the format that it was trained with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import attrs

from ...core.components import Answer, Call, Dialogue, Setting, Tool
from ...core.components.dialogue import action_key
from ...core.errors import RequestError
from .call_arguments import objection, short
from .call_formats import FORMATS, Format, Written, format_of
from .wording import after_thought, wording

ACT = "act"
"""The tool that plays an action with a name; lines at its end tell it from one of the environment."""
_LIMITS = "Call at most {per_turn} tools a turn, {total} in all."


@attrs.frozen
class ToolCalls(Dialogue):
    """A response calls tools, in the format that the chat template shows; the results are messages of the role tool.

    The tools are those of the environment. In an environment without tools whose actions have names, the tool ``act``
    plays them. A response without a call is an action as it stands, where the environment takes free text; so is any
    response in an environment without tools.

    A call that cannot be read, names no tool, or has wrong arguments is not played: its result says why. It makes the
    turn invalid (``rollout.format_penalty``), and is counted in ``share_of_calls_broken``, ``share_of_calls_unknown``
    and ``share_of_calls_wrong``. Calls beyond ``rollout.max_actions_per_turn`` are not played either, without penalty.

    ``rollout.think`` switches the thoughts of models whose chat template has them. Calls inside of a thought do not
    count. ``mutual_information`` cannot measure this dialogue, since no text ends its thoughts.
    """

    format: Literal["auto", "hermes", "llama", "mistral", "granite", "pythonic"] = attrs.field(
        default="auto", validator=attrs.validators.in_(("auto", *FORMATS))
    )
    """Format of calls; ``auto`` is the one that the chat template shows, or ``hermes`` where it shows none of them."""
    listing: Literal["auto", "template", "system"] = attrs.field(
        default="auto", validator=attrs.validators.in_(("auto", "template", "system"))
    )
    """Place where the tools are described: by the chat template, or in the system message (results then are lines of
    user messages). ``auto`` is the template, if it can do it in a known format."""
    persona: str = "You are a helpful assistant."
    """First line of the system message; an empty text leaves it out."""
    limits: str = wording(_LIMITS, "per_turn", "total")
    """Words about the largest number of calls in a turn and in all (``{per_turn}``, ``{total}``)."""
    warning: str = "Invalid answer: call a tool."
    """Words after a response that neither calls a tool nor is an answer; an empty text says nothing about it."""

    calls_tools = True

    @property
    def tags(self) -> tuple[str, ...]:  # type: ignore[override]
        """Tags of the format."""
        return self._format.tags

    @property
    def _format(self) -> Format:
        return FORMATS["hermes" if self.format == "auto" else self.format]

    def adapted(self, chat_template: str, writes_tools: bool) -> ToolCalls:
        """Return the dialogue with the format of a chat template, and the place of the tools.

        Raises:
            RequestError: the template is to describe the tools, and cannot.
        """
        if self.listing == "template" and not writes_tools:
            what = "the chat template describes no tools, or cannot write their results one after the other"
            raise RequestError(
                what, "dialogue: tool_calls, listing: template", "set listing: auto, or use another model"
            )
        shown = format_of(chat_template)
        chosen: Any = (shown or "hermes") if self.format == "auto" else self.format
        described = writes_tools and (shown is not None or self.format != "auto")
        place = ("template" if described else "system") if self.listing == "auto" else self.listing
        return attrs.evolve(self, format=chosen, listing=place)

    def tools(self, setting: Setting) -> tuple[Tool, ...]:
        return _offered(setting) if self.listing == "template" else ()

    def system(self, setting: Setting) -> str:
        """Return the task, the limits and, where the chat template does not describe them, the tools."""
        offered = _offered(setting)
        lines = [*([self.persona] if self.persona else []), setting.instruction.strip()]
        if offered and self.limits:
            lines.append(self.limits.format(per_turn=setting.max_actions_per_turn, total=setting.max_actions))
        if offered and self.listing != "template":
            lines += ["Tools, as JSON schemas:", *(json.dumps(tool.function, ensure_ascii=False) for tool in offered)]
            lines.append(self.reply(setting))
        return "\n".join(lines)

    def reply(self, setting: Setting) -> str:
        return self._format.manual if _offered(setting) and self.listing != "template" else ""

    def ask(self, number: int, observation: str, actions_left: int, setting: Setting) -> str:
        return observation or "(nothing)"

    def result(self, call: Call, observation: str, setting: Setting) -> str:
        return observation if self.listing == "template" else f"Result of {call.name or 'the call'}: {observation}"

    def outcome(self, reward: float, answer: Answer, setting: Setting) -> str:
        return "" if answer.valid or answer.calls else self.warning

    def summary(self, answer: Answer) -> str:
        return "\n".join(answer.actions) or "(nothing)"

    def parse(self, response: str, setting: Setting) -> Answer:
        """Read the calls; without one, free text is the answer, and where there is none, nothing is."""
        thought, rest = after_thought(response) if setting.think else ("", response)
        offered = {tool.name: tool for tool in _offered(setting)}
        before, written = self._format.read(rest) if offered else (rest, [])
        if not written:
            return Answer.naming([rest] if setting.actions is None else [], setting, thought)
        limit = setting.max_actions_per_turn
        calls = [_checked(call, offered, setting) for call in written[:limit]]
        actions = tuple(call.action or call.text for call in calls if not call.problem)
        if len(written) > limit:
            calls.append(Call(problem=f"{len(written) - limit} more were not called: at most {limit} are, in one turn"))
        spoken = "\n".join(filter(None, (thought, before.strip())))
        return Answer(spoken, actions, min(len(written), limit), tuple(calls))

    def respond(self, thought: str, actions: tuple[str, ...], setting: Setting) -> str:
        """Return calls: of ``act`` for actions with names, or those whose text (:attr:`Call.text`) an action is."""
        calls = [call for action in actions for call in _calls(action, setting)]
        if len(calls) < len(actions):
            return "\n".join(actions)
        return self._format.write(calls)


def _offered(setting: Setting) -> tuple[Tool, ...]:
    if setting.actions is None:
        return setting.tools
    action = {"type": "string", "enum": list(setting.actions), "description": "The name of the action."}
    parameters = {"type": "object", "properties": {"action": action}, "required": ["action"]}
    function = {"name": _act(setting), "description": "Play an action.", "parameters": parameters}
    return (*setting.tools, Tool(_act(setting), json.dumps(function, ensure_ascii=False)))


def _act(setting: Setting) -> str:
    """Return the name of the tool that plays actions with names."""
    names, name = {tool.name for tool in setting.tools}, ACT
    while name in names:
        name += "_"
    return name


def _checked(written: Written, offered: dict[str, Tool], setting: Setting) -> Call:
    """Return the call, with its problem if it cannot be played."""
    arguments = json.dumps(written.arguments, ensure_ascii=False)
    if written.broken:
        return Call(problem=f"Error: the call cannot be read: {written.broken}", fault="broken")
    tool = offered.get(written.name)
    if tool is None:
        name = short(written.name)
        problem = f"Error: there is no tool {name!r}; the tools are {', '.join(offered)}"
        return Call(name, arguments, problem=problem, fault="unknown")
    given, action = dict(written.arguments), ""
    is_act = setting.actions is not None and written.name == _act(setting)
    if is_act and isinstance(given.get("action"), str):
        names = {action_key(name): name for name in setting.actions or ()}
        action = given["action"] = names.get(action_key(given["action"]), given["action"])
    if reason := objection(given, tool.function.get("parameters", {})):
        problem = f"Error: {written.name} was not called: {reason}"
        return Call(written.name, arguments, problem=problem, fault="wrong")
    return Call(written.name, arguments, action)


def _calls(action: str, setting: Setting) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the call that an action stands for, if it stands for one."""
    names = {tool.name for tool in setting.tools}
    try:
        call = json.loads(action)
    except ValueError:
        call = None
    if isinstance(call, dict) and call.get("name") in names and isinstance(call.get("arguments"), dict):
        yield call["name"], call["arguments"]
    elif setting.actions is not None:
        yield _act(setting), {"action": action}
