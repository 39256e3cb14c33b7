"""The names of the built-in dialogues."""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl


@hookimpl
def register_dialogues(register: Register) -> None:
    register(
        "think_answer",
        "uncollapse.plugins.dialogue.think_answer:ThinkAnswer",
        summary="a thought between <think> tags, then actions between <answer> tags",
    )
    register(
        "plain",
        "uncollapse.plugins.dialogue.plain:Plain",
        summary="the observation in, the whole response is the action",
    )
    register(
        "boxed",
        "uncollapse.plugins.dialogue.boxed:Boxed",
        summary="reasoning, then the answer in a LaTeX box: the format of mathematics",
    )
    register(
        "tool_calls",
        "uncollapse.plugins.dialogue.tool_calls:ToolCalls",
        summary="calls of tools, as the chat template writes them, and their results",
    )
