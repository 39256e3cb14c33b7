"""A chat template that describes tools is tried with calls and their results, before it is used for them."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from .messages import Result, Said

_ENDS = re.compile(r"\s*(<[^<>]+>|\[[^\[\]]+\])")


class UnusableError(Exception):
    """A chat template cannot be used with messages of one form; the text says why."""


@attrs.frozen
class CallForm:
    """How a template is given answers that call tools.

    An answer is given as plain text, as any other; where a template refuses results after it, as the name of a called
    tool, so that what the template writes after the answer begins with the rest of the call's markup. This is left out.
    """

    in_calls: bool
    """Whether an answer before results is given as the name of a called tool."""
    again: bool
    """Whether the tools are given in later turns, too. Some templates describe them before the *last* user's text."""
    end: str = ""
    """The text that ends an answer, where it is given as the name of a called tool."""

    def rest(self, text: str, said: Said) -> str:
        """Return what a template writes after an answer, without markup of the call.

        Raises:
            UnusableError: the answer has no end.
        """
        if not self.in_calls or isinstance(said, str):
            return text
        _, found, after = text.partition(self.end)
        if not found:
            raise UnusableError("it ends an answer that calls tools in another way")
        return found + after


Write = Callable[[str, Sequence[Said], Sequence[dict[str, Any]], CallForm], str]
"""``write(system, said, tools, form)``: the conversation as the template writes it, with marks for the answers."""


@attrs.frozen
class Trial:
    """A trial of a template with tools."""

    write: Write
    answer: Callable[[int], str]
    """The mark of an answer."""
    generation: str
    """The end of a prompt."""
    history: str
    """The text in the place of ``generation`` before an earlier answer."""
    between: str
    """The text between an answer and the next user's text."""
    long: str
    """A text that the template must write unchanged, or as JSON writes it."""

    def form(self) -> CallForm | None:
        """Return the first form in which the template describes tools and writes results; ``None`` if there is none."""
        end = _ENDS.match(self.between)
        for in_calls in (False, True) if end else (False,):
            for again in (True, False):
                form = CallForm(in_calls, again, end[0] if end and in_calls else "")
                try:
                    self._require(form)
                except UnusableError:
                    continue
                return form
        return None

    def _require(self, form: CallForm) -> None:
        """Check the form with several conversations. Raises UnusableError if it cannot be used."""
        name, system, first, other = (f"t{secrets.token_hex(8)}" for _ in range(4))
        tools = [{"type": "function", "function": _function(name)}]
        opened = self.write(system, [first], tools, form)
        if name not in opened or not opened.endswith(self.generation):
            raise UnusableError("it describes no tools")
        before = opened.removesuffix(self.generation) + self.history
        one, two, more = (tuple(self._result(name) for _ in range(count)) for count in (1, 2, 1))
        after_one = ""
        later: tuple[list[Said], ...] = ([one], [one, two], [one, other], [other, more], [one, two, more])
        for each in later:
            said: list[Said] = [first, *each]
            text = self.write(system, said, tools if form.again else (), form)
            markup = form.in_calls and isinstance(said[1], tuple)
            if form.again and not text.startswith(before if markup else before + self.answer(0)):
                raise UnusableError("it writes the tools, or earlier turns, anew")
            steps = list(self._steps(text, said, form))
            if len(said) == 2:
                after_one = steps[0]
            elif said[1] == one and not steps[0].startswith(after_one.removesuffix(self.generation) + self.history):
                raise UnusableError("it writes the results of earlier calls anew")

    def _steps(self, text: str, said: Sequence[Said], form: CallForm) -> Iterator[str]:
        """Yield what the template writes after each answer, up to the next one.

        Raises:
            UnusableError: it drops or changes texts.
        """
        for turn, each in enumerate(said[1:]):
            _, found, text = text.rpartition(self.answer(turn))
            if not found:
                raise UnusableError("it drops an answer")
            step = form.rest(text.partition(self.answer(turn + 1))[0], each)
            position = 0
            for wanted in [each] if isinstance(each, str) else [result.text for result in each]:
                places = [step.find(spelled, position) for spelled in (wanted, _as_json(wanted))]
                if max(places) < 0:
                    raise UnusableError("it drops or changes the results of calls")
                position = max(places) + 1
            if turn == len(said) - 2 and not step.endswith(self.generation):
                raise UnusableError("it begins an answer after results in another way")
            yield step

    def _result(self, name: str) -> Result:
        return Result(name, f"{secrets.token_hex(8)} {self.long}")


def _as_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _function(name: str) -> dict[str, Any]:
    number = {"type": "integer", "description": "A number."}
    parameters = {"type": "object", "properties": {"number": number}, "required": ["number"]}
    return {"name": name, "description": "A trial.", "parameters": parameters}
